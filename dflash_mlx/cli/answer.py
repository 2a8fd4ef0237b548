"""`generate` and `chat`: answer one prompt, or hold a conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from ..errors import OptionError
from ..terminal import shell_completion
from ..terminal.answer_options import (
    AnswerOptions,
    PromptOptions,
    SamplingOptions,
    Shorthand,
    ThinkingOptions,
)
from ..terminal.chat.looks import Looks
from ..terminal.grammar_options import GrammarOptions
from ..terminal.options import PROMPT, Json, Verbose, option, parse_bool
from ..terminal.serve.options import ServedAnswerOptions, ServeOptions
from .app import command

ModelName = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="The same as --model.",
        autocompletion=shell_completion.models,
    ),
]


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
    grammar: GrammarOptions,
    json: Json = False,
    verbose: Verbose = "T",
):
    """Answer one prompt.

    Text piped to stdin comes before the prompt, or where - stands in it. A prompt that
    begins with a dash goes after --.

    dflash-mlx generate "What is 12 + 34?"

    cat notes.txt | dflash-mlx generate "What is missing here?" --model qwen3-8b

    git diff | dflash-mlx generate "Review this:" - "Be brief." --model qwen3-8b

    dflash-mlx generate "Write a haiku." --temp 0.7 --seed 1 --json

    dflash-mlx generate "Who wrote Faust, and when?" --json-schema book.json
    """
    from ..terminal import generate as terminal
    from ..terminal.answer_request import AnswerRequest
    from ..terminal.streams import NO_MODEL, print_notice, read_prompt

    show_summary = parse_bool(verbose, "--verbose")
    request = AnswerRequest.from_options(options, sampling, shorthand)
    text = read_prompt(words, prompt, prompt_options.escapes)
    if options.model is None and show_summary and not json:
        print_notice(NO_MODEL)
    terminal.run(
        request,
        text,
        prompt_options,
        thinking,
        grammar,
        as_json=json,
        verbose=show_summary,
    )


def chat(
    name: ModelName = None,
    *,
    options: AnswerOptions,
    shorthand: Shorthand,
    thinking: ThinkingOptions,
    looks: Looks,
    sampling: SamplingOptions,
    verbose: Verbose = "T",
):
    """Talk to a model. /help lists the commands, Ctrl-D leaves.

    Without a model, a terminal offers those that fit this machine.

    dflash-mlx chat qwen3-8b

    dflash-mlx chat --model qwen3-8b --system-prompt "Answer in French." --temp 0.7
    """
    from ..terminal.screen import progress

    show_status = parse_bool(verbose, "--verbose")
    options = replace(options, model=one_model(name, options.model))
    with progress.spinner("Starting", progress.wanted(show_status)):
        from ..terminal.answer_request import AnswerRequest
        from ..terminal.chat import menu
        from ..terminal.chat import repl as terminal
        from ..terminal.streams import NO_MODEL, print_notice

    request = AnswerRequest.from_options(options, sampling, shorthand)
    if options.model is None and menu.wanted():
        chosen = menu.choose_model()
        if chosen is None:
            return
        request = replace(request, model=chosen)
    elif options.model is None and show_status:
        print_notice(NO_MODEL)
    terminal.run(request, thinking, looks, verbose=show_status)


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model, which is written as an argument or as --model.

    Raises:
        OptionError: It is given twice.
    """
    if argument is not None and option not in (None, argument):
        raise OptionError("The model is given twice.", f"Drop {argument} or --model.")
    return argument or option


@command
def serve(
    name: ModelName = None,
    *,
    options: ServedAnswerOptions,
    shorthand: Shorthand,
    thinking: ThinkingOptions,
    serving: ServeOptions,
    sampling: SamplingOptions,
):
    """Serve a model to other programs, with OpenAI's and Anthropic's APIs.

    The other options are the defaults of answers; a request may set its own.

    dflash-mlx serve qwen3-8b

    dflash-mlx serve --model qwen3-coder-30b --alias "claude-*=qwen3-coder-30b"
    """
    from ..terminal.screen import progress

    options = replace(options, model=one_model(name, options.model))
    with progress.spinner("Starting", progress.wanted(True)):
        from ..terminal.answer_request import AnswerRequest
        from ..terminal.serve import program as terminal
        from ..terminal.streams import NO_MODEL, print_notice

    request = AnswerRequest.from_options(options, sampling, shorthand)
    if options.model is None:
        print_notice(NO_MODEL)
    terminal.run(request, thinking, serving)


command(chat)
command(chat, name="run", hidden=True)
command(serve, name="server", hidden=True)
