"""The options of an answer, which generate and chat share, each declared once.

A field of these dataclasses is a command-line option, and its default the command's.
Imports nothing heavy. Does not know how a model is loaded or answers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ..errors import OptionError
from ..types import Sampling
from . import shell_completion
from .options import (
    PROMPT,
    SAMPLING,
    SPECULATION,
    BlockSize,
    ChatTemplateConfig,
    ChosenModel,
    Draft,
    DraftQuantize,
    Exact,
    Kernels,
    MaxTokens,
    MinP,
    NoCalibration,
    NoWired,
    Quantize,
    Temp,
    TopK,
    TopP,
    TrustRemoteCode,
    check_choice,
    check_exclusive,
    kernel_mode,
    option,
    parse_object,
)

THINKING = ("on", "off", "auto")


@dataclass(frozen=True)
class AnswerOptions:
    """What is loaded, and how it answers."""

    model: ChosenModel = None
    draft: Draft = None
    revision: Annotated[
        str | None,
        option(
            "--revision",
            "Branch, tag or commit of the model's repository. Default: its main "
            "branch.",
        ),
    ] = None
    quantize: Quantize = None
    draft_quantize: DraftQuantize = None
    draft_window: Annotated[
        int | None,
        option(
            "--draft-window",
            "Number of context tokens that the drafter sees; 0 is all. Default: what "
            "the drafter was made for.",
        ),
    ] = None
    adapter_path: Annotated[
        str | None,
        option(
            "--adapter-path",
            "Folder with LoRA adapters for the model, from mlx_lm.lora.",
            metavar="PATH",
        ),
    ] = None
    trust_remote_code: TrustRemoteCode = False
    kernels: Kernels = "auto"
    no_calibration: NoCalibration = False
    no_wired: NoWired = False
    system_prompt: Annotated[
        str | None, option("--system-prompt", "System message for the model.", PROMPT)
    ] = None
    chat_template_config: ChatTemplateConfig = None
    extra_eos_token: Annotated[
        list[str] | None,
        option(
            "--extra-eos-token",
            "Another token that ends the answer; repeat the option for several.",
            PROMPT,
            metavar="TOKEN",
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        option(
            "--stop",
            "Text that ends the answer and is not printed; repeat the option for "
            "several.",
            PROMPT,
        ),
    ] = None
    max_tokens: MaxTokens = 1024
    block_size: BlockSize = None
    plain: Annotated[
        bool, option("--plain", "Decode without drafting.", SPECULATION)
    ] = False
    require_dflash: Annotated[
        bool,
        option(
            "--require-dflash",
            "Fail, instead of decoding plainly, if no drafter can be used.",
            SPECULATION,
        ),
    ] = False
    prefill_step_size: Annotated[
        int,
        option("--prefill-step-size", "Prompt tokens per prefill pass.", SPECULATION),
    ] = 2048
    max_kv_size: Annotated[
        int | None,
        option(
            "--max-kv-size",
            "Maximum number of tokens in the KV cache; the oldest are dropped. "
            "Default: no limit.",
            SPECULATION,
        ),
    ] = None
    kv_bits: Annotated[
        int | None,
        option(
            "--kv-bits",
            "Quantize the KV cache to 2, 3, 4 or 8 bits. Default: off.",
            SPECULATION,
            autocompletion=shell_completion.words("2", "3", "4", "8"),
        ),
    ] = None
    kv_group_size: Annotated[
        int,
        option(
            "--kv-group-size",
            "Number of values that share a scale in the quantized KV cache: 32, 64 or "
            "128.",
            SPECULATION,
        ),
    ] = 64
    quantized_kv_start: Annotated[
        int,
        option(
            "--quantized-kv-start",
            "Length in tokens from which the KV cache is quantized.",
            SPECULATION,
        ),
    ] = 5000


@dataclass(frozen=True)
class Shorthand:
    """Options that set another option's value."""

    exact: Exact = False
    num_draft_tokens: Annotated[
        int | None,
        option(
            "--num-draft-tokens",
            "Number of drafts per verify pass, as in mlx-lm; a --block-size one higher "
            "is the same.",
            SPECULATION,
        ),
    ] = None

    def apply(self, options: AnswerOptions) -> dict:
        """The fields of `options` that these set, with their values.

        Raises:
            OptionError: They contradict `options`.
        """
        changed = {"kernels": kernel_mode(options.kernels, self.exact)}
        drafts = self.num_draft_tokens
        if drafts is None:
            return changed
        sized = options.block_size is not None
        check_exclusive("--block-size", "--num-draft-tokens", sized)
        if drafts < 0:
            raise OptionError(f"--num-draft-tokens must be 0 or more, but is {drafts}.")
        return changed | {"block_size": drafts + 1}


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen: the fields of Sampling, as written on a command line."""

    temp: Temp = 0.0
    top_p: TopP = 1.0
    top_k: TopK = 0
    min_p: MinP = 0.0
    min_tokens_to_keep: Annotated[
        int,
        option(
            "--min-tokens-to-keep",
            "Number of tokens that --min-p always keeps.",
            SAMPLING,
        ),
    ] = 1
    xtc_probability: Annotated[
        float,
        option(
            "--xtc-probability",
            "Probability that XTC sampling is applied; 0 is off.",
            SAMPLING,
        ),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        option(
            "--xtc-threshold",
            "Probability above which XTC drops all tokens but the least likely.",
            SAMPLING,
        ),
    ] = 0.1
    seed: Annotated[
        int | None,
        option(
            "--seed",
            "Seed that makes sampling repeatable. Default: a random one.",
            SAMPLING,
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        option(
            "--repetition-penalty",
            "Factor above 1 that makes recent tokens less likely. Default: off.",
            SAMPLING,
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        option(
            "--presence-penalty",
            "Subtracted from the logit of every recent token. Default: off.",
            SAMPLING,
        ),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        option(
            "--frequency-penalty",
            "Subtracted from a token's logit for each recent occurrence. Default: off.",
            SAMPLING,
        ),
    ] = None
    logit_bias: Annotated[
        str | None,
        option(
            "--logit-bias",
            "JSON object of values to add to logits, by token id, for example "
            '{"42": -5}.',
            SAMPLING,
            metavar="JSON",
        ),
    ] = None

    def sampling(self) -> Sampling:
        """The Sampling with these values.

        Raises:
            OptionError: A value is out of range or not valid JSON.
        """
        biases = parse_object(self.logit_bias, "--logit-bias")
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
    """How generate turns its prompt into tokens."""

    prefill_response: Annotated[
        str | None,
        option(
            "--prefill-response",
            "Beginning of the answer, which the model continues.",
            PROMPT,
        ),
    ] = None
    ignore_chat_template: Annotated[
        bool,
        option(
            "--ignore-chat-template",
            "Give the prompt to the model as it is, without the chat template.",
            PROMPT,
        ),
    ] = False
    use_default_chat_template: Annotated[
        bool,
        option(
            "--use-default-chat-template",
            "Accepted for compatibility with mlx-lm: the model's own template is "
            "already the default.",
            PROMPT,
        ),
    ] = False
    escapes: Annotated[
        bool,
        option(
            "--escapes/--no-escapes",
            "Read \\n and \\t in PROMPT as a new line and a tab, as mlx-lm does.",
            PROMPT,
        ),
    ] = True
    prompt_cache_file: Annotated[
        Path | None,
        option(
            "--prompt-cache-file",
            "Prompt cache to start from. A file that does not exist is written after "
            "the answer.",
            PROMPT,
            dir_okay=False,
        ),
    ] = None

    def __post_init__(self):
        check_exclusive(
            "--ignore-chat-template",
            "--use-default-chat-template",
            self.ignore_chat_template and self.use_default_chat_template,
        )


@dataclass(frozen=True)
class ThinkingOptions:
    """Whether, and how hard, the model reasons before it answers."""

    thinking: Annotated[
        str,
        option(
            "--thinking",
            "Whether the model reasons before it answers: on, off, or auto for its "
            "chat template's default.",
            PROMPT,
            metavar="MODE",
            autocompletion=shell_completion.words(*THINKING),
        ),
    ] = "auto"
    reasoning_effort: Annotated[
        str | None,
        option(
            "--reasoning-effort",
            "How hard the model reasons, if its chat template has the setting: low, "
            "medium or high. Default: the template's.",
            PROMPT,
            metavar="LEVEL",
            autocompletion=shell_completion.words("low", "medium", "high"),
        ),
    ] = None

    def __post_init__(self):
        check_choice(self.thinking, "--thinking", *THINKING)
