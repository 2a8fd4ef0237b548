"""docs/cli.md, written from the app: `python -m dflash_mlx.cli.manual > docs/cli.md`.

Typer's own `utils docs` would do, but for the panels, and its words change with its
versions, which a test for freshness would not stand.
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
    """The commands by name, as typer runs them."""
    return typer.main.get_command(app).commands


def examples(command: Any) -> list[str]:
    """The lines of a command's help that call the program."""
    return [line for line in paragraphs(command) if calls(line)]


def paragraphs(command: Any) -> list[str]:
    """A command's help, a line each."""
    return [" ".join(p.split()) for p in inspect.cleandoc(command.help).split("\n\n")]


def calls(line: str) -> bool:
    """Whether a line of help is an example."""
    return line.rpartition(" | ")[2].startswith(f"{PROGRAM} ")


def page(name: str, command: Any) -> Iterator[str]:
    """One command's section, a paragraph at a time."""
    yield f"## {PROGRAM} {name}"
    for line in paragraphs(command):
        if not calls(line):
            yield line
    yield "\n".join(f"    {line}" for line in examples(command))
    panels = groupby(sorted(command.params, key=panel), key=panel)
    for title, parameters in panels:
        yield f"**{title}**"
        yield "\n".join(entry(each) for each in parameters)


def panel(parameter: Any) -> str:
    """The panel of help that a parameter is in."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    return parameter.rich_help_panel or "Options"


def entry(parameter: Any) -> str:
    """A line for a parameter."""
    if parameter.param_type_name == "argument":
        names = parameter.metavar or parameter.name.upper()
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    told = default not in (None, False, "", []) and not parameter.required
    after = f" Default: {default}." if told else ""
    after = " Required." if parameter.required else after
    return f"- `{names}`: {parameter.help}{after}"


def manual() -> str:
    """The whole page."""
    parts = [
        f"# {PROGRAM}: the command line",
        "Written from the program by `make docs`. The answer is on stdout, everything "
        "else on stderr.",
        " ".join(EXIT_CODES.split()),
        f"`{PROGRAM} --install-completion` teaches the shell its commands, options, "
        "models and drafters.",
    ]
    for name, command in commands().items():
        parts += page(name, command)
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(manual(), end="")
