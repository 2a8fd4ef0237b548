"""Command-line options that several commands have, each declared once, and how their
values are read; mlx-lm's names where it has them.

Imports nothing heavy, so that --help stays instant. What only generate and chat have is
in answering.py.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ..errors import OptionError
from . import shell_completion

PROMPT = "Prompt"
SAMPLING = "Sampling"
DFLASH = "Speculation"
OUTPUT = "Output"


def option(name: str, help: str, panel: str = "Model", **more):
    """An option of a help panel."""
    return typer.Option(*name.split(), help=help, rich_help_panel=panel, **more)


# Arguments of apply_chat_template that are no variables of a template.
OURS = ("messages", "conversation", "add_generation_prompt", "continue_final_message")
OURS += ("tokenize", "padding", "truncation", "max_length", "return_tensors")
OURS += ("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs")
BITS = shell_completion.words("4", "8")
Model = Annotated[
    str,
    option(
        "--model",
        "Alias, Hub id or folder; `dflash-mlx models` lists aliases.",
        autocompletion=shell_completion.models,
    ),
]
Draft = Annotated[
    str | None,
    option(
        "--draft --draft-model",
        "The drafter; found by itself when left out.",
        autocompletion=shell_completion.drafters,
    ),
]
Quantize = Annotated[
    int | None,
    option(
        "--quantize", "Quantize the model at load: 4 or 8 bits.", autocompletion=BITS
    ),
]
DraftQuantize = Annotated[
    int | None,
    option(
        "--draft-quantize",
        "Quantize the drafter at load: 4 or 8 bits.",
        autocompletion=BITS,
    ),
]
TrustRemoteCode = Annotated[
    bool, option("--trust-remote-code", "Run code that comes with the model.")
]
Kernels = Annotated[
    str,
    option(
        "--kernels",
        "Metal kernels: auto, off, or exact.",
        metavar="MODE",
        autocompletion=shell_completion.words(*shell_completion.KERNELS),
    ),
]
Exact = Annotated[
    bool, option("--exact", "The bits of plain decoding: --kernels exact.")
]
ChatTemplateConfig = Annotated[
    str | None,
    option(
        "--chat-template-config",
        'JSON for the chat template, e.g. {"enable_thinking": false}.',
        PROMPT,
    ),
]
MaxTokens = Annotated[
    int, option("--max-tokens -m", "Most tokens to generate; -1 for no limit.", PROMPT)
]
Temp = Annotated[float, option("--temp", "Temperature; 0 is greedy.", SAMPLING)]
TopP = Annotated[float, option("--top-p", "Nucleus sampling; 1 is off.", SAMPLING)]
TopK = Annotated[int, option("--top-k", "Most likely tokens kept; 0 is off.", SAMPLING)]
MinP = Annotated[
    float, option("--min-p", "Least share of the best; 0 is off.", SAMPLING)
]
BlockSize = Annotated[
    int | None,
    option("--block-size", "Rows of every verify pass; measured if left out.", DFLASH),
]
Json = Annotated[bool, option("--json", "One JSON object on stdout.", OUTPUT)]
Verbose = Annotated[
    str,
    option(
        "--verbose",
        "The summary on stderr.",
        OUTPUT,
        metavar="T|F",
        autocompletion=shell_completion.words("T", "F"),
    ),
]


def kernel_mode(kernels: str, exact: bool) -> str:
    """What --kernels and --exact ask for together.

    Raises:
        OptionError: They contradict each other.
    """
    if exact and kernels == "off":
        raise OptionError("--exact and --kernels off exclude each other.", "Drop one.")
    return "exact" if exact else kernels


def choose(text: str, option: str, *known: str) -> None:
    """Raise OptionError unless a value is one of those known."""
    if text not in known:
        raise OptionError(f"{option} must be {', '.join(known)}, but is {text!r}.")


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


def parse_object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object given as an option.

    Raises:
        OptionError: It is none.
    """
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise OptionError(f"{option} must be a JSON object, but is {text!r}.")
    return value


def template_options(text: str | None) -> dict[str, Any]:
    """--chat-template-config as keyword arguments of a chat template.

    Raises:
        OptionError: It is no JSON object, or names what is ours to say.
    """
    found = parse_object(text, "--chat-template-config")
    if taken := [name for name in OURS if name in found]:
        raise OptionError(
            f"--chat-template-config cannot set {taken[0]}.", "Leave it out."
        )
    return found
