"""The options of an answer, each declared once: what generate and chat share.

A field is an option of the command line, its default that of the command. Knows what is
asked for, not how it is loaded or answered: nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ..errors import OptionError
from ..types import Sampling
from . import options as o
from . import shell_completion
from .options import (
    DFLASH,
    OUTPUT,
    PROMPT,
    SAMPLING,
    option,
)


@dataclass(frozen=True)
class AnswerOptions:
    """What is loaded, and how it answers."""

    model: o.Model = "tiny"
    draft: o.Draft = None
    revision: Annotated[
        str | None, option("--revision", "Branch, tag or commit of the model.")
    ] = None
    quantize: o.Quantize = None
    draft_quantize: o.DraftQuantize = None
    draft_window: Annotated[
        int | None, option("--draft-window", "Context rows the drafter sees; 0 is all.")
    ] = None
    adapter_path: Annotated[
        str | None, option("--adapter-path", "LoRA adapters of mlx_lm.lora.")
    ] = None
    trust_remote_code: o.TrustRemoteCode = False
    kernels: o.Kernels = "auto"
    system_prompt: Annotated[
        str | None, option("--system-prompt", "System message of the chat.", PROMPT)
    ] = None
    chat_template_config: o.ChatTemplateConfig = None
    extra_eos_token: Annotated[
        list[str] | None,
        option("--extra-eos-token", "Another token that ends it.", PROMPT),
    ] = None
    stop: Annotated[
        list[str] | None, option("--stop", "A string that ends the answer.", PROMPT)
    ] = None
    max_tokens: o.MaxTokens = 1024
    block_size: o.BlockSize = None
    plain: Annotated[bool, option("--plain", "Decode without drafting.", DFLASH)] = (
        False
    )
    require_dflash: Annotated[
        bool, option("--require-dflash", "Fail rather than decode plainly.", DFLASH)
    ] = False
    prefill_step_size: Annotated[
        int, option("--prefill-step-size", "Prompt tokens per pass.", DFLASH)
    ] = 2048
    max_kv_size: Annotated[
        int | None, option("--max-kv-size", "Most rows of context kept.", DFLASH)
    ] = None
    kv_bits: Annotated[
        int | None,
        option(
            "--kv-bits",
            "Quantize the KV cache.",
            DFLASH,
            autocompletion=shell_completion.words("2", "3", "4", "8"),
        ),
    ] = None
    kv_group_size: Annotated[
        int, option("--kv-group-size", "Its group size.", DFLASH)
    ] = 64
    quantized_kv_start: Annotated[
        int, option("--quantized-kv-start", "Rows from which it is quantized.", DFLASH)
    ] = 5000


@dataclass(frozen=True)
class Shorthand:
    """Other ways to say what `AnswerOptions` says."""

    exact: o.Exact = False
    num_draft_tokens: Annotated[
        int | None,
        option(
            "--num-draft-tokens",
            "mlx-lm's way to say it: blocks of so many drafts, and a row.",
            DFLASH,
        ),
    ] = None

    def apply(self, asked: AnswerOptions) -> dict:
        """The fields of `asked` that these change.

        Raises:
            OptionError: They contradict it.
        """
        changed = {"kernels": o.kernel_mode(asked.kernels, self.exact)}
        drafts = self.num_draft_tokens
        if drafts is None:
            return changed
        if asked.block_size is not None:
            raise OptionError(
                "--block-size and --num-draft-tokens exclude each other.", "Drop one."
            )
        if drafts < 0:
            raise OptionError(f"--num-draft-tokens must be 0 or more, but is {drafts}.")
        return changed | {"block_size": drafts + 1}


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen; `Sampling`'s fields, as a command line writes them."""

    temp: o.Temp = 0.0
    top_p: o.TopP = 1.0
    top_k: o.TopK = 0
    min_p: o.MinP = 0.0
    min_tokens_to_keep: Annotated[
        int, option("--min-tokens-to-keep", "Tokens that min-p leaves.", SAMPLING)
    ] = 1
    xtc_probability: Annotated[
        float, option("--xtc-probability", "How often XTC applies.", SAMPLING)
    ] = 0.0
    xtc_threshold: Annotated[
        float, option("--xtc-threshold", "Probability that XTC cuts from.", SAMPLING)
    ] = 0.1
    seed: Annotated[
        int | None, option("--seed", "Makes sampling repeatable.", SAMPLING)
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option("--repetition-penalty", "Divides repeated logits.", SAMPLING),
    ] = None
    presence_penalty: Annotated[
        float | None,
        option("--presence-penalty", "Taken off repeated logits.", SAMPLING),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        option("--frequency-penalty", "Taken off per repetition.", SAMPLING),
    ] = None
    logit_bias: Annotated[
        str | None,
        option("--logit-bias", 'JSON of token id to bias, e.g. {"42": -5}.', SAMPLING),
    ] = None

    def sampling(self) -> Sampling:
        """What they say.

        Raises:
            OptionError: A value is out of range or no JSON.
        """
        biases = o.parse_object(self.logit_bias, "--logit-bias")
        try:
            bias = {int(token): float(value) for token, value in biases.items()}
        except (TypeError, ValueError):
            raise OptionError(
                "--logit-bias must map token ids to numbers, but is "
                f"{self.logit_bias!r}."
            ) from None
        return Sampling(**asdict(self) | {"logit_bias": bias})


@dataclass(frozen=True)
class PromptOptions:
    """How one prompt becomes tokens; generate's."""

    prefill_response: Annotated[
        str | None, option("--prefill-response", "How the answer begins.", PROMPT)
    ] = None
    ignore_chat_template: Annotated[
        bool, option("--ignore-chat-template", "Feed the prompt as it is.", PROMPT)
    ] = False
    use_default_chat_template: Annotated[
        bool,
        option(
            "--use-default-chat-template",
            "mlx-lm's: the model's own template, which is the default.",
            PROMPT,
        ),
    ] = False
    prompt_cache_file: Annotated[
        Path | None,
        option(
            "--prompt-cache-file",
            "Go on from this file's tokens; it is written if there is none.",
            PROMPT,
            dir_okay=False,
        ),
    ] = None

    def __post_init__(self):
        if self.ignore_chat_template and self.use_default_chat_template:
            raise OptionError(
                "--ignore-chat-template and --use-default-chat-template exclude each "
                "other.",
                "Drop one.",
            )


@dataclass(frozen=True)
class ThinkingOptions:
    """Whether, and how hard, the model reasons before it answers."""

    thinking: Annotated[
        str,
        option(
            "--thinking",
            "Reason first: on, off, or auto for the template's own default.",
            PROMPT,
            metavar="MODE",
            autocompletion=shell_completion.words("on", "off", "auto"),
        ),
    ] = "auto"
    reasoning_effort: Annotated[
        str | None,
        option(
            "--reasoning-effort",
            "How hard, where the template has it: low, medium, high.",
            PROMPT,
            autocompletion=shell_completion.words("low", "medium", "high"),
        ),
    ] = None

    def __post_init__(self):
        o.choose(self.thinking, "--thinking", "on", "off", "auto")


@dataclass(frozen=True)
class Looks:
    """How a chat looks, and what it goes on with."""

    markdown: Annotated[
        bool, option("--markdown/--no-markdown", "Render Markdown.", OUTPUT)
    ] = True
    show_drafts: Annotated[
        bool, option("--show-drafts", "Colour drafted tokens.", OUTPUT)
    ] = False
    reasoning: Annotated[
        str,
        option(
            "--reasoning",
            "Reasoning is dimmed, folded to a line, or hidden: show, fold, hide.",
            OUTPUT,
            metavar="HOW",
            autocompletion=shell_completion.words("show", "fold", "hide"),
        ),
    ] = "show"
    load: Annotated[
        Path | None,
        option(
            "--load",
            "Go on with a conversation that /save wrote.",
            PROMPT,
            dir_okay=False,
            exists=True,
        ),
    ] = None

    def __post_init__(self):
        o.choose(self.reasoning, "--reasoning", "show", "fold", "hide")
