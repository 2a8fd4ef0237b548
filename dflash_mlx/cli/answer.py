"""`generate` and `chat`: answer one prompt, or hold a conversation."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal.answer_options import (
    AnswerOptions,
    Looks,
    PromptOptions,
    SamplingOptions,
    Shorthand,
    ThinkingOptions,
)
from ..terminal.options import PROMPT, Json, Verbose, option, parse_bool
from .app import command


@command
def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT", help="The prompt; - stands for the text on stdin."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        option("--prompt -p", "The same as PROMPT, as in mlx-lm.", PROMPT),
    ] = None,
    *,
    options: AnswerOptions,
    shorthand: Shorthand,
    prompt_options: PromptOptions,
    thinking: ThinkingOptions,
    sampling: SamplingOptions,
    json: Json = False,
    verbose: Verbose = "T",
):
    """Answer one prompt.

    Text piped to stdin comes before the prompt, or where - stands in it.

    dflash-mlx generate "What is 12 + 34?"

    cat notes.txt | dflash-mlx generate "What is missing here?" --model qwen3-8b

    git diff | dflash-mlx generate "Review this:" - "Be brief." --model qwen3-8b

    dflash-mlx generate "Write a haiku." --temp 0.7 --seed 1 --json
    """
    from ..terminal import generate as terminal
    from ..terminal.answer_request import AnswerRequest
    from ..terminal.streams import read_prompt

    show_summary = parse_bool(verbose, "--verbose")
    request = AnswerRequest.from_options(options, sampling, shorthand)
    text = read_prompt(words, prompt)
    terminal.run(
        request, text, prompt_options, thinking, as_json=json, verbose=show_summary
    )


@command
def chat(
    options: AnswerOptions,
    shorthand: Shorthand,
    thinking: ThinkingOptions,
    looks: Looks,
    sampling: SamplingOptions,
    verbose: Verbose = "T",
):
    """Talk to a model. /help lists the commands, Ctrl-D leaves.

    dflash-mlx chat --model qwen3-8b

    dflash-mlx chat --model qwen3-8b --system-prompt "Answer in French." --temp 0.7
    """
    from ..terminal.answer_request import AnswerRequest
    from ..terminal.chat import repl as terminal

    show_status = parse_bool(verbose, "--verbose")
    request = AnswerRequest.from_options(options, sampling, shorthand)
    terminal.run(request, thinking, looks, verbose=show_status)
