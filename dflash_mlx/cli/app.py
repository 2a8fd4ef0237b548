"""The typer app: how a function becomes a command, and how the program ends.

Owns exit codes. Does not know any command. How a dataclass becomes options is in
fields.py.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import DFlashError, OptionError
from ..terminal.streams import print_notice
from .fields import with_fields

INTERRUPTED = 130
# What a shell reports for a program whose reader closed the pipe: 128 + SIGPIPE.
NO_READER = 141
FULL = "The disk that the output goes to is full."
# Parameters that hold the prompt. Their encoding is checked where they are read.
PROMPTS = ("words", "prompt", "prompts")
EXIT_CODES = """\
Exit codes: 0 is success; 1 means that something is missing, broken or incompatible, or
that a check failed; 2 that the command line or the prompt is not valid; 130 that Ctrl-C
ended the program, after it printed what it had; 141 that the reader of the output
closed the pipe.
"""


# typer has no public name for the error of a command line.
UsageError = typer.BadParameter.__base__


class Command(TyperCommand):
    """A command that shows no <bool> beside its flags in --help, and explains how a
    prompt can begin with a dash."""

    def parse_args(self, ctx, args):
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            takes_prompt = any(each.name == "words" for each in self.params)
            unknown = error.message.startswith("No such option")
            if takes_prompt and unknown and not error.possibilities:
                error.message += (
                    f". Write -- before a prompt that begins with a dash: {self.name} "
                    "-- PROMPT"
                )
            raise

    def get_params(self, ctx):
        return without_placeholders(super().get_params(ctx))


class Program(TyperGroup):
    """The program, which shows no <bool> beside its flags in --help."""

    def get_params(self, ctx):
        return without_placeholders(super().get_params(ctx))


def without_placeholders(parameters: list) -> list:
    """Typer's parameters, with nothing in place of the value that a flag lacks."""
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return parameters


app = typer.Typer(
    name="dflash-mlx",
    cls=Program,
    help="DFlash speculative decoding on MLX: the same words, several times faster.",
    epilog=" ".join(EXIT_CODES.split()),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    function: Callable,
    name: str | None = None,
    hidden: bool = False,
    **settings: Any,
) -> Callable:
    """Register a command.

    A DFlashError is printed as one sentence and ends the program with its exit code.
    Ctrl-C, a closed pipe and a full disk end it without a traceback; a bug does not.

    Args:
        function: Its options, its help, and what it does.
        name: Its name; by default the function's.
        hidden: Leave it out of the program's help.
        settings: click's context settings.
    """
    function = with_fields(function)

    @app.command(name, cls=Command, hidden=hidden, context_settings=settings)
    @functools.wraps(function)
    def run(*args, **kwargs):
        if isinstance(sys.stdout, TextIOWrapper):
            # Print a question mark where the encoding lacks a character.
            sys.stdout.reconfigure(errors="replace")
        try:
            check_encoding(kwargs)
            function(*args, **kwargs)
        except DFlashError as error:
            print_notice(f"dflash-mlx: {error}")
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
    """Run the program. Standard streams may be closed."""
    # Transformers warns of long prompts; our own errors do that.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # A closed stream would be None here, and the next file opened would get its number.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
    try:
        app(prog_name="dflash-mlx")
    except SystemExit as end:
        # rich and click exit with 1 when the pipe is closed.
        if isinstance(end.__context__, BrokenPipeError):
            discard_output()
            sys.exit(NO_READER)
        raise


def discard_output() -> None:
    """Discard what stdout still holds, which Python could not write at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def check_encoding(values: dict[str, Any]) -> None:
    """Raise OptionError for an option that is not valid UTF-8."""
    for name, value in values.items():
        texts = value if isinstance(value, list) else [value]
        for text in texts if name not in PROMPTS else ():
            if isinstance(text, str) and text.encode(errors="ignore").decode() != text:
                option = name.replace("_", "-")
                raise OptionError(
                    f"--{option} is not valid UTF-8.",
                    "Convert it, for example with iconv.",
                )


@app.callback(invoke_without_command=True)
def print_version(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the versions of dflash-mlx and MLX."),
    ] = False,
):
    if version:
        from importlib.metadata import version as version_of

        packages = ("dflash-mlx", "mlx", "mlx-lm")
        print(", ".join(f"{name} {version_of(name)}" for name in packages))
        raise typer.Exit
