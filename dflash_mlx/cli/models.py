"""What there is: `models`, and the machine: `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import options as o
from .app import command


@command
def models(
    families: Annotated[
        bool, typer.Option("--families", help="The architectures of mlx-lm instead.")
    ] = False,
):
    """List the known targets, their drafters, and what this version runs.

    dflash-mlx models

    dflash-mlx models --families
    """
    from ..terminal.models import show, show_families

    show_families() if families else show()


@command
def doctor(json: o.Json = False):
    """Tell what this machine is, and what decoding can count on.

    dflash-mlx doctor --json
    """
    from ..terminal.doctor import run

    run(json)
