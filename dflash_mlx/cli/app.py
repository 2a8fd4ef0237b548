"""The typer app, and how a function becomes one of its commands.

Owns exit codes. A parameter whose type is a dataclass stands for all its fields: they
are declared there, once, as options (terminal/answering.py), and a command gets the
whole.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from io import TextIOWrapper
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import DFlashError, OptionError

INTERRUPTED = 130
# What a shell tells of a program whose reader went away: 128 + SIGPIPE.
NO_READER = 141
FULL = "The disk that the output goes to is full."
# Parameters that are the prompt, or parts of it.
PROMPTS = ("words", "prompt", "prompts")
EXIT_CODES = """\
Exit codes: 0 is success; 1 says that something is missing, broken or does not fit, or
that a check failed; 2 that the command line or the prompt cannot be used; 130 that
Ctrl-C ended it, with what was written until then; 141 that nobody reads the output any
more.
"""

app = typer.Typer(
    name="dflash-mlx",
    help="DFlash speculative decoding on MLX: the same words, several times faster.",
    epilog=" ".join(EXIT_CODES.split()),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(function: Callable) -> Callable:
    """Register a command. A user's mistake becomes one sentence and an exit code;
    Ctrl-C and a reader that left end it quietly; a bug stays a traceback."""
    spread = with_fields(function)

    @app.command()
    @functools.wraps(spread)
    def run(*args, **kwargs):
        if isinstance(sys.stdout, TextIOWrapper):
            # An answer is worth a question mark where the encoding lacks a letter.
            sys.stdout.reconfigure(errors="replace")
        try:
            check_texts(kwargs)
            spread(*args, **kwargs)
        except DFlashError as error:
            print(f"dflash-mlx: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            discard_output()
            raise typer.Exit(NO_READER) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            discard_output()
            print(f"dflash-mlx: {FULL}", file=sys.stderr)
            raise typer.Exit(1) from None

    return run


def run_app() -> None:
    """The program: a command and its exit code, whatever streams it was given."""
    # Our own errors say what is too long, and for what.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # What is closed would be None here, and the next file's number there.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
    try:
        app(prog_name="dflash-mlx")
    except SystemExit as end:
        # rich and click leave so too when nobody reads, with 1.
        if isinstance(end.__context__, BrokenPipeError):
            discard_output()
            sys.exit(NO_READER)
        raise


def discard_output() -> None:
    """Let what is still to be written vanish: Python would complain as it closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def check_texts(given: dict[str, Any]) -> None:
    """Refuse options whose bytes are no UTF-8; the prompt's own check is its reader's.

    Raises:
        OptionError: One is such.
    """
    for name, value in given.items():
        texts = value if isinstance(value, list) else [value]
        for text in texts if name not in PROMPTS else ():
            if isinstance(text, str) and text.encode(errors="ignore").decode() != text:
                option = name.replace("_", "-")
                raise OptionError(
                    f"--{option} is not valid UTF-8.", "Convert it, say with iconv."
                )


def with_fields(function: Callable) -> Callable:
    """The function, taking the fields of its dataclass parameters one by one."""
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += parameters_of(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def call(**given):
        made = {
            name: group(**{each.name: given.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        return function(**given, **made)

    # Typer reads both.
    call.__signature__ = inspect.Signature(parameters)
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call


def parameters_of(group: type) -> list[inspect.Parameter]:
    """A dataclass's fields as keyword parameters, with their typer options."""
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            each.name, kind, default=each.default, annotation=hints[each.name]
        )
        for each in fields(group)
    ]


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Show versions.")] = False,
):
    if version:
        from importlib.metadata import version as of

        names = ("dflash-mlx", "mlx", "mlx-lm")
        print(", ".join(f"{name} {of(name)}" for name in names))
        raise typer.Exit
