"""Command-line options that several commands share, and parsers of option values.

Names are mlx-lm's where it has the option. Imports nothing heavy, so that --help stays
instant. The options of generate and chat alone are in answer_options.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..text.template_switches import RESERVED
from . import shell_completion

MODEL = "Model"
PROMPT = "Prompt"
SAMPLING = "Sampling"
SPECULATION = "Speculation"
OUTPUT = "Output"

TRUE, FALSE = ("t", "true", "1", "yes"), ("f", "false", "0", "no")


def option(names: str, help: str, panel: str = MODEL, **more: Any):
    """A typer option.

    Args:
        names: Its names, separated by spaces.
        help: Its help text.
        panel: The panel of --help that lists it.
        more: Further arguments of typer.Option.
    """
    return typer.Option(*names.split(), help=help, rich_help_panel=panel, **more)


BITS = shell_completion.words("4", "8")
Model = Annotated[
    str,
    option(
        "--model",
        "The target model: an alias, a Hub id or a folder. `dflash-mlx models` lists "
        "the aliases.",
        autocompletion=shell_completion.models,
    ),
]
ChosenModel = Annotated[
    str | None,
    option(
        "--model",
        "The target model: an alias, a Hub id or a folder. `dflash-mlx models` lists "
        "the aliases. Default: tiny, a built-in toy that only knows arithmetic.",
        autocompletion=shell_completion.models,
    ),
]
Draft = Annotated[
    str | None,
    option(
        "--draft --draft-model",
        "The drafter: an alias, a Hub id, a folder, or none. Default: the known "
        "drafter of the model.",
        autocompletion=shell_completion.drafters,
    ),
]
Quantize = Annotated[
    int | None,
    option(
        "--quantize",
        "Quantize the model to 4 or 8 bits when loading it. Default: off.",
        autocompletion=BITS,
    ),
]
DraftQuantize = Annotated[
    int | None,
    option(
        "--draft-quantize",
        "Quantize the drafter to 4 or 8 bits when loading it. Default: off.",
        autocompletion=BITS,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    option(
        "--trust-remote-code", "Allow Python code from the model's repository to run."
    ),
]
Kernels = Annotated[
    str,
    option(
        "--kernels",
        "When Metal kernels run: auto where they are faster, off never, exact so that "
        "the output is the same bit for bit with drafts and without.",
        metavar="MODE",
        autocompletion=shell_completion.words(*shell_completion.KERNELS),
    ),
]
NoCalibration = Annotated[
    bool,
    option(
        "--no-calibration",
        "Do not measure the speed of a new model when loading it; widths of blocks are "
        "chosen from assumed costs at first.",
    ),
]
NoWired = Annotated[
    bool,
    option("--no-wired", "Do not keep the weights in wired memory on a Mac."),
]
Exact = Annotated[bool, option("--exact", "The same as --kernels exact.")]
ChatTemplateConfig = Annotated[
    str | None,
    option(
        "--chat-template-config",
        "JSON object of variables for the chat template, for example "
        '{"enable_thinking": false}.',
        PROMPT,
        metavar="JSON",
    ),
]
MaxTokens = Annotated[
    int,
    option(
        "--max-tokens -m",
        "Maximum number of tokens to generate; -1 for no limit.",
        PROMPT,
    ),
]
Temp = Annotated[
    float,
    option(
        "--temp", "Sampling temperature; 0 always takes the likeliest token.", SAMPLING
    ),
]
TopP = Annotated[
    float,
    option(
        "--top-p",
        "Sample from the likeliest tokens that together have this probability; 1 is "
        "off.",
        SAMPLING,
    ),
]
TopK = Annotated[
    int, option("--top-k", "Sample from the K likeliest tokens; 0 is off.", SAMPLING)
]
MinP = Annotated[
    float,
    option(
        "--min-p",
        "Drop tokens whose probability is below this share of the likeliest token's; "
        "0 is off.",
        SAMPLING,
    ),
]
BlockSize = Annotated[
    int | None,
    option(
        "--block-size",
        "Number of rows in a verify pass: the last token and the drafts. Default: "
        "chosen from what this machine measured.",
        SPECULATION,
    ),
]
Json = Annotated[bool, option("--json", "Print one JSON object on stdout.", OUTPUT)]
Verbose = Annotated[
    str,
    option(
        "--verbose",
        "Print a summary of the answer on stderr: T or F.",
        OUTPUT,
        metavar="T|F",
        autocompletion=shell_completion.words("T", "F"),
    ),
]


@dataclass(frozen=True)
class ProbeOptions:
    """The target to measure a drafter with, if one is given, and the prompts."""

    model: Annotated[
        str | None,
        option(
            "--model",
            "The target model to measure with: an alias, a Hub id or a folder.",
            autocompletion=shell_completion.models,
        ),
    ] = None
    quantize: Quantize = None
    trust_remote_code: TrustRemoteCode = False
    prompts: Annotated[
        list[str] | None,
        option(
            "--prompt -p",
            "Prompt to measure with; repeat the option for several. Default: built-in "
            "prompts.",
            PROMPT,
        ),
    ] = None
    max_tokens: MaxTokens = 64


def check_exclusive(one: str, other: str, both: bool) -> None:
    """Raise OptionError if two options that exclude each other are both given."""
    if both:
        raise OptionError(f"{one} and {other} exclude each other.", "Drop one.")


def kernel_mode(kernels: str, exact: bool) -> str:
    """--kernels, or "exact" where --exact is given.

    Raises:
        OptionError: They contradict each other.
    """
    check_exclusive("--exact", "--kernels off", exact and kernels == "off")
    return "exact" if exact else kernels


def check_choice(text: str, option: str, *choices: str) -> None:
    """Raise OptionError unless a value is one of the choices."""
    if text not in choices:
        words = ", ".join(choices)
        raise OptionError(f"{option} must be one of {words}, but is {text!r}.")


def parse_bool(text: str, option: str) -> bool:
    """The value of a flag that takes one, as in mlx-lm.

    Raises:
        OptionError: The text is neither true nor false.
    """
    low = text.lower()
    if low not in (*TRUE, *FALSE):
        raise OptionError(f"{option} must be T or F, but is {text!r}.")
    return low in TRUE


def parse_numbers(
    text: str, option: str, kind: type = int, auto: bool = False
) -> tuple[Any, ...]:
    """Numbers separated by commas.

    Args:
        text: What was given.
        option: The name of the option.
        kind: int or float.
        auto: The word auto is a value too, and is read as None.

    Raises:
        OptionError: A part is not a number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(None if auto and p == "auto" else kind(p) for p in parts)
    except ValueError:
        example = "auto,2,4" if auto else "1,9,17"
        raise OptionError(
            f"{option} must be numbers like {example}, but is {text!r}."
        ) from None


def split_names(texts: list[str] | None) -> tuple[str, ...]:
    """Names given by repeating an option or by commas, without repetitions."""
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def parse_object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object; empty where the option was not given.

    Raises:
        OptionError: The text is not a JSON object.
    """
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise OptionError(f"{option} must be a JSON object, but is {text!r}.")
    return value


def check_template_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, unless --chat-template-config names one that is reserved.

    Raises:
        OptionError: It does.
    """
    if reserved := [name for name in RESERVED if name in arguments]:
        raise OptionError(
            f"--chat-template-config cannot set {reserved[0]}.", "Leave it out."
        )
    return arguments
