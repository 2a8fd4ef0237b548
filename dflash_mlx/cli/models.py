"""`models` and `doctor`: the known models, and this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import shell_completion
from ..terminal.options import Json
from .app import command


@command
def models(
    alias: Annotated[
        str | None,
        typer.Argument(
            metavar="ALIAS",
            help="Show the drafters of this model.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    families: Annotated[
        bool,
        typer.Option(
            "--families",
            help="List the architectures of mlx-lm instead, and how each decodes.",
        ),
    ] = False,
    downloaded: Annotated[
        bool,
        typer.Option("--downloaded", help="List only the models that are downloaded."),
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="MODEL",
            help="Remove this model and its drafters from the disk, after a question.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Answer the question of --remove.")
    ] = False,
):
    """List the known models: what they need, and what is downloaded already.

    dflash-mlx models

    dflash-mlx models qwen3-8b

    dflash-mlx models --downloaded

    dflash-mlx models --remove qwen3-8b
    """
    from ..terminal import models as terminal
    from ..terminal.streams import ask, print_notice

    if families:
        terminal.show_families()
    elif remove is not None:
        terminal.remove(remove, (lambda _: True) if yes else ask, print_notice)
    else:
        terminal.show(alias, downloaded)


@command
def doctor(json: Json = False):
    """Describe this machine: chip, versions, memory, kernels.

    dflash-mlx doctor --json
    """
    from ..terminal.report import doctor as run

    run(json)
