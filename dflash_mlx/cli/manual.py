"""Print docs/cli.md from the app: `python -m dflash_mlx.cli.manual > docs/cli.md`.

Owns the layout of the page. Typer's own `utils docs` leaves out the panels, and its
wording changes between versions, which would fail the test that the page is up to date.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import typer

from . import app
from .app import EXIT_CODES

PROGRAM = "dflash-mlx"


def commands() -> dict[str, Any]:
    """Typer's commands by name, without the hidden ones."""
    found = typer.main.get_command(app).commands
    return {name: each for name, each in found.items() if not each.hidden}


def examples(command: Any) -> list[str]:
    """The lines of a command's help that run the program."""
    return [line for line in paragraphs(command) if is_example(line)]


def paragraphs(command: Any) -> list[str]:
    """The paragraphs of a command's help, each on one line."""
    return [" ".join(p.split()) for p in inspect.cleandoc(command.help).split("\n\n")]


def is_example(line: str) -> bool:
    """Whether a line of help runs the program."""
    return line.rpartition(" | ")[2].startswith(f"{PROGRAM} ")


def section(name: str, command: Any) -> Iterator[str]:
    """The paragraphs of a command's section."""
    yield f"## {PROGRAM} {name}"
    for line in paragraphs(command):
        if not is_example(line):
            yield line
    yield "\n".join(f"    {line}" for line in examples(command))
    panels = groupby(sorted(command.params, key=panel), key=panel)
    for title, parameters in panels:
        yield f"**{title}**"
        yield "\n".join(entry(each) for each in parameters)


def panel(parameter: Any) -> str:
    """The panel of --help that lists a parameter."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    return parameter.rich_help_panel or "Options"


def entry(parameter: Any) -> str:
    """The line of a parameter."""
    if parameter.param_type_name == "argument":
        names = parameter.metavar or parameter.name.upper()
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return f"- `{names}`: {parameter.help}{default(parameter)}"


def default(parameter: Any) -> str:
    """What follows the help of a parameter: its default, or that it is required."""
    value = parameter.default
    if parameter.required:
        return " Required."
    if value is None or value is False:
        return ""
    if value is True:
        value = parameter.opts[0]
    if isinstance(value, list):
        value = ",".join(value)
    return f" Default: {value}."


def manual() -> str:
    """The whole page."""
    parts = [
        f"# {PROGRAM}: the command line",
        "`make docs` writes this page from the program. Answers are printed on stdout, "
        "everything else on stderr.",
        " ".join(EXIT_CODES.split()),
        f"`{PROGRAM} --install-completion` makes the shell complete commands, options, "
        "models and drafters.",
    ]
    for name, command in commands().items():
        parts += section(name, command)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(manual(), end="")
