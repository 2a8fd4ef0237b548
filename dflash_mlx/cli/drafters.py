"""`inspect` and `convert`: a drafter's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import shell_completion
from ..terminal.options import BITS, Json, ProbeOptions, option
from .app import command

READING = "Reading of the config"
Drafter = Annotated[
    str,
    typer.Argument(
        metavar="DRAFTER",
        help="The drafter: a folder, a Hub id, or the alias of its target.",
        autocompletion=shell_completion.targets_of_drafters,
    ),
]


@command
def inspect(drafter: Drafter, options: ProbeOptions, json: Json = False):
    """Describe a drafter's checkpoint, and how each field was read.

    With --model, measures every plausible reading of its config and prints the best.

    dflash-mlx inspect z-lab/Qwen3-8B-DFlash-b16 --model qwen3-8b
    """
    from ..terminal.drafters import run_inspect

    run_inspect(drafter, options, as_json=json)


@command
def convert(
    drafter: Drafter,
    out: Annotated[Path, typer.Option(help="Folder to write to, new or empty.")],
    bits: Annotated[
        int | None,
        option(
            "--bits",
            "Quantize the linear layers to 4 or 8 bits. Default: off.",
            autocompletion=BITS,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        option(
            "--dtype",
            "Data type of the weights that are not quantized: bfloat16, float16 or "
            "float32. Default: that of the checkpoint.",
            autocompletion=shell_completion.words("bfloat16", "float16", "float32"),
        ),
    ] = None,
    tap_shift: Annotated[
        int,
        option(
            "--tap-shift",
            "Number to add to the target layers that the drafter reads.",
            READING,
        ),
    ] = 0,
    sample_from_anchor: Annotated[
        bool | None,
        option(
            "--sample-from-anchor/--no-sample-from-anchor",
            "Whether the anchor's slot predicts the first draft. Default: as the "
            "checkpoint was read.",
            READING,
        ),
    ] = None,
    causal: Annotated[
        bool | None,
        option(
            "--causal/--no-causal",
            "Whether rows of a block see only earlier rows. Default: as the "
            "checkpoint was read.",
            READING,
        ),
    ] = None,
    *,
    options: ProbeOptions,
):
    """Write a drafter of any known packaging in our own format.

    With --model, measures tokens per round before and after.

    dflash-mlx convert z-lab/Qwen3-8B-DFlash-b16 --bits 4 --out drafter-4bit
    """
    from ..convert import Changes
    from ..terminal.drafters import run_convert

    changes = Changes(bits, dtype, tap_shift, sample_from_anchor, causal)
    run_convert(drafter, out, changes, options)
