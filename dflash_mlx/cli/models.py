"""`models` and `doctor`: the known models, and this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal.options import Json
from .app import command


@command
def models(
    families: Annotated[
        bool,
        typer.Option(
            "--families",
            help="List the architectures of mlx-lm instead, and how each decodes.",
        ),
    ] = False,
):
    """List the known target models and their drafters.

    dflash-mlx models

    dflash-mlx models --families
    """
    from ..terminal.models import show, show_families

    show_families() if families else show()


@command
def doctor(json: Json = False):
    """Describe this machine: chip, versions, memory, kernels.

    dflash-mlx doctor --json
    """
    from ..terminal.doctor import run

    run(json)
