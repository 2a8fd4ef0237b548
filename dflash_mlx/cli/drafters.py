"""A drafter's checkpoint: `inspect` and `convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import options as o
from ..terminal import shell_completion
from .app import command

PROBE = "Probe"
Prompts = Annotated[
    list[str] | None, o.option("--prompt -p", "What is asked; repeatable.", PROBE)
]
Target = Annotated[
    str | None,
    o.option(
        "--model",
        "A target to measure with: alias, Hub id, folder.",
        autocompletion=shell_completion.models,
    ),
]
READING = "Reading"
Drafter = Annotated[
    str,
    typer.Argument(
        help="Drafter: folder, Hub id, or the alias of its target.",
        autocompletion=shell_completion.targets_of_drafters,
    ),
]


@command
def inspect(
    drafter: Drafter,
    model: Target = None,
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    prompt: Prompts = None,
    max_tokens: o.MaxTokens = 64,
    json: o.Json = False,
):
    """Tell what a drafter's checkpoint is, and how each field was read.

    With --model, drafts under every plausible reading and tells which is right.

    dflash-mlx inspect z-lab/Qwen3-8B-DFlash-b16 --model qwen3-8b
    """
    from ..terminal.inspect_drafter import run

    run(
        drafter,
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        prompts=prompt,
        max_tokens=max_tokens,
        as_json=json,
    )


@command
def convert(
    drafter: Drafter,
    out: Annotated[Path, typer.Option(help="A new folder.")],
    bits: Annotated[
        int | None,
        o.option("--bits", "Quantize linear layers: 4 or 8.", autocompletion=o.BITS),
    ] = None,
    dtype: Annotated[
        str | None,
        o.option(
            "--dtype",
            "bfloat16, float16 or float32.",
            autocompletion=shell_completion.words("bfloat16", "float16", "float32"),
        ),
    ] = None,
    tap_shift: Annotated[
        int, o.option("--tap-shift", "Added to the layers that it reads.", READING)
    ] = 0,
    sample_from_anchor: Annotated[
        bool | None,
        o.option(
            "--sample-from-anchor/--no-sample-from-anchor",
            "The anchor's slot predicts.",
            READING,
        ),
    ] = None,
    causal: Annotated[
        bool | None,
        o.option("--causal/--no-causal", "No row sees a later one.", READING),
    ] = None,
    model: Target = None,
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    prompt: Prompts = None,
    max_tokens: o.MaxTokens = 64,
):
    """Write a drafter of any packaging in our own format, quantized if wanted.

    With --model, measures tokens per round before and after.

    dflash-mlx convert z-lab/Qwen3-8B-DFlash-b16 --bits 4 --out drafter-4bit
    """
    from ..convert import Changes
    from ..terminal.convert import run

    run(
        drafter,
        out,
        Changes(bits, dtype, tap_shift, sample_from_anchor, causal),
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        prompts=prompt,
        max_tokens=max_tokens,
    )
