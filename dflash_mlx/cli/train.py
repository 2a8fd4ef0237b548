"""`train`: train a drafter for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal.options import MaxTokens, Model, Quantize, Temp, TrustRemoteCode
from ..terminal.shell_completion import words
from ..train.options import KINDS, MARKOV_HEADS, TrainOptions
from .app import command
from .fields import Panel

TRAINING = Panel(
    "Training",
    completions={"kind": words(*KINDS), "markov_head": words(*MARKOV_HEADS)},
)


@command
def train(
    data: Annotated[
        Path,
        typer.Option(
            help='JSONL file; a line is {"prompt": "..."} or {"messages": [...]}.'
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the drafter. An interrupted run in it is continued."
        ),
    ],
    model: Model = "tiny",
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    *,
    options: Annotated[TrainOptions, TRAINING],
    temp: Temp = 0.0,
    max_tokens: MaxTokens = 512,
):
    """Train a drafter for a model, on answers that the model writes itself.

    An interrupted run continues when the same command is given again.

    dflash-mlx train --model qwen3-8b --data prompts.jsonl --out my-drafter

    dflash-mlx train --data mine.jsonl --out tuned --warm-start qwen3-8b --steps 200
    """
    from ..terminal.train import run

    run(
        options,
        data,
        out,
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        temp=temp,
        max_tokens=max_tokens,
    )
