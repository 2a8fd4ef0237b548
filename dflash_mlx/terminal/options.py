"""Command-line options, each declared once; mlx-lm's names where it has them.

Imports nothing heavy, so that --help stays instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import OptionError


def option(name: str, help: str, panel: str = "Model", **more):
    """An option of a help panel."""
    return typer.Option(*name.split(), help=help, rich_help_panel=panel, **more)


Model = Annotated[
    str,
    option("--model", "Alias, Hub id or folder; `dflash-mlx models` lists aliases."),
]
Draft = Annotated[
    str | None,
    option("--draft --draft-model", "The drafter; found by itself when left out."),
]
Revision = Annotated[
    str | None, option("--revision", "Branch, tag or commit of the model.")
]
Quantize = Annotated[
    int | None, option("--quantize", "Quantize the model at load: 4 or 8 bits.")
]
DraftQuantize = Annotated[
    int | None, option("--draft-quantize", "Quantize the drafter at load: 4 or 8 bits.")
]
DraftWindow = Annotated[
    int | None, option("--draft-window", "Context rows the drafter sees; 0 is all.")
]
AdapterPath = Annotated[
    str | None, option("--adapter-path", "LoRA adapters of mlx_lm.lora.")
]
TrustRemoteCode = Annotated[
    bool, option("--trust-remote-code", "Run code that comes with the model.")
]
Kernels = Annotated[
    str, option("--kernels", "Metal kernels: auto, off, or exact.", metavar="MODE")
]
Exact = Annotated[
    bool, option("--exact", "The bits of plain decoding: --kernels exact.")
]

PROMPT = "Prompt"
SystemPrompt = Annotated[
    str | None, option("--system-prompt", "System message of the chat.", PROMPT)
]
PrefillResponse = Annotated[
    str | None, option("--prefill-response", "How the answer begins.", PROMPT)
]
IgnoreChatTemplate = Annotated[
    bool, option("--ignore-chat-template", "Feed the prompt as it is.", PROMPT)
]
ChatTemplateConfig = Annotated[
    str | None,
    option(
        "--chat-template-config",
        'JSON for the chat template, e.g. {"enable_thinking": false}.',
        PROMPT,
    ),
]
ExtraEosToken = Annotated[
    list[str] | None, option("--extra-eos-token", "Another token that ends it.", PROMPT)
]
Stop = Annotated[
    list[str] | None, option("--stop", "A string that ends the answer.", PROMPT)
]
MaxTokens = Annotated[
    int, option("--max-tokens -m", "Most tokens to generate; -1 for no limit.", PROMPT)
]

SAMPLING = "Sampling"
Temp = Annotated[float, option("--temp", "Temperature; 0 is greedy.", SAMPLING)]
TopP = Annotated[float, option("--top-p", "Nucleus sampling; 1 is off.", SAMPLING)]
TopK = Annotated[int, option("--top-k", "Most likely tokens kept; 0 is off.", SAMPLING)]
MinP = Annotated[
    float, option("--min-p", "Least share of the best; 0 is off.", SAMPLING)
]
MinTokensToKeep = Annotated[
    int, option("--min-tokens-to-keep", "Tokens that min-p leaves.", SAMPLING)
]
XtcProbability = Annotated[
    float, option("--xtc-probability", "How often XTC applies.", SAMPLING)
]
XtcThreshold = Annotated[
    float, option("--xtc-threshold", "Probability that XTC cuts from.", SAMPLING)
]
Seed = Annotated[int | None, option("--seed", "Makes sampling repeatable.", SAMPLING)]
RepetitionPenalty = Annotated[
    float | None, option("--repetition-penalty", "Divides repeated logits.", SAMPLING)
]
PresencePenalty = Annotated[
    float | None, option("--presence-penalty", "Taken off repeated logits.", SAMPLING)
]
FrequencyPenalty = Annotated[
    float | None,
    option("--frequency-penalty", "Taken off per repetition.", SAMPLING),
]
LogitBias = Annotated[
    str | None,
    option("--logit-bias", 'JSON of token id to bias, e.g. {"42": -5}.', SAMPLING),
]

DFLASH = "Speculation"
BlockSize = Annotated[
    int | None,
    option("--block-size", "Rows of every verify pass; measured if left out.", DFLASH),
]
Plain = Annotated[bool, option("--plain", "Decode without drafting.", DFLASH)]
RequireDFlash = Annotated[
    bool, option("--require-dflash", "Fail rather than decode plainly.", DFLASH)
]
PrefillStepSize = Annotated[
    int, option("--prefill-step-size", "Prompt tokens per pass.", DFLASH)
]
MaxKVSize = Annotated[
    int | None, option("--max-kv-size", "Most rows of context kept.", DFLASH)
]
KVBits = Annotated[int | None, option("--kv-bits", "Quantize the KV cache.", DFLASH)]
KVGroupSize = Annotated[int, option("--kv-group-size", "Its group size.", DFLASH)]
QuantizedKVStart = Annotated[
    int, option("--quantized-kv-start", "Rows from which it is quantized.", DFLASH)
]

OUTPUT = "Output"
Json = Annotated[bool, option("--json", "One JSON object on stdout.", OUTPUT)]
Verbose = Annotated[
    str, option("--verbose", "The summary on stderr.", OUTPUT, metavar="T|F")
]


def kernel_mode(kernels: str, exact: bool) -> str:
    """What --kernels and --exact ask for together.

    Raises:
        OptionError: They contradict each other.
    """
    if exact and kernels == "off":
        raise OptionError("--exact and --kernels off exclude each other.", "Drop one.")
    return "exact" if exact else kernels


def truth(text: str, option: str) -> bool:
    """mlx-lm's way to give a flag a value.

    Raises:
        OptionError: The text is neither yes nor no.
    """
    low = text.lower()
    if low not in ("t", "true", "1", "yes", "f", "false", "0", "no"):
        raise OptionError(f"{option} must be T or F, but is {text!r}.")
    return low in ("t", "true", "1", "yes")


def numbers(text: str, option: str, kind: type = int) -> tuple:
    """Numbers with commas between them.

    Raises:
        OptionError: One of them is none.
    """
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise OptionError(
            f"{option} must be numbers like 1,9,17, but is {text!r}."
        ) from None


def names(texts: list[str] | None) -> tuple[str, ...]:
    """Names of a repeatable option, each with commas between several."""
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))
