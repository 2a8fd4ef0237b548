"""What answers: `generate` one prompt, `chat` many."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import answer_options as a
from ..terminal import options as o
from .app import command


@command
def generate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="The prompt; - stands for piped text."),
    ] = None,
    prompt: Annotated[
        str | None, o.option("--prompt -p", "The prompt, mlx-lm's way.", o.PROMPT)
    ] = None,
    *,
    asked: a.AnswerOptions,
    short: a.Shorthand,
    how: a.PromptOptions,
    thinking: a.ThinkingOptions,
    sampling: a.SamplingOptions,
    json: o.Json = False,
    verbose: o.Verbose = "T",
):
    """Answer one prompt.

    Piped text comes first, the question after it, unless - says where it goes.

    dflash-mlx generate "What is 12 + 34?"

    cat notes.txt | dflash-mlx generate "What is missing here?" --model qwen3-8b

    git diff | dflash-mlx generate "Review this:" - "Be brief." --model qwen3-8b

    dflash-mlx generate "Write a haiku." --temp 0.7 --seed 1 --json
    """
    from ..terminal import generate as terminal
    from ..terminal.answer_request import AnswerRequest
    from ..terminal.stdin import read_prompt

    shown = o.truth(verbose, "--verbose")
    ask = AnswerRequest.of(asked, sampling, short)
    text = read_prompt(words, prompt)
    terminal.run(ask, text, how, thinking, as_json=json, verbose=shown)


@command
def chat(
    asked: a.AnswerOptions,
    short: a.Shorthand,
    thinking: a.ThinkingOptions,
    looks: a.Looks,
    sampling: a.SamplingOptions,
    verbose: o.Verbose = "T",
):
    """Talk to a model; /help lists the commands, Ctrl-D leaves.

    dflash-mlx chat --model qwen3-8b

    dflash-mlx chat --model qwen3-8b --system-prompt "Answer in French." --temp 0.7
    """
    from ..terminal.answer_request import AnswerRequest
    from ..terminal.chat import session as terminal

    ask = AnswerRequest.of(asked, sampling, short)
    terminal.run(ask, thinking, looks, verbose=o.truth(verbose, "--verbose"))
