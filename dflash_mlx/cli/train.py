"""`train`: a drafter for a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import options as o
from ..terminal import shell_completion
from .app import command

TRAINING = "Training"


@dataclass(frozen=True)
class Training:
    """TrainOptions' fields, each an option; taps as they are written."""

    kind: Annotated[
        str,
        o.option(
            "--kind",
            "dflash, dflash2 or dspark.",
            TRAINING,
            autocompletion=shell_completion.words(*shell_completion.KINDS),
        ),
    ] = "dflash"
    warm_start: Annotated[
        str | None,
        o.option("--warm-start", "A drafter to start from: its body stays.", TRAINING),
    ] = None
    block_size: Annotated[
        int | None, o.option("--block-size", "Rows; 16.", TRAINING)
    ] = None
    layers: Annotated[
        int | None, o.option("--layers", "Draft layers; 5.", TRAINING)
    ] = None
    rank: Annotated[
        int | None, o.option("--rank", "Of the selector or Markov head; 256.", TRAINING)
    ] = None
    markov_head: Annotated[
        str | None,
        o.option(
            "--markov-head",
            "vanilla, gated or rnn.",
            TRAINING,
            autocompletion=shell_completion.words("vanilla", "gated", "rnn"),
        ),
    ] = None
    taps: Annotated[
        str | None, o.option("--taps", "Target layers to read: 1,9,17.", TRAINING)
    ] = None
    mask_token_id: Annotated[
        int | None, o.option("--mask-token-id", "An id that text lacks.", TRAINING)
    ] = None
    context_window: Annotated[
        int | None, o.option("--context-window", "Rows it is shown.", TRAINING)
    ] = None
    steps: Annotated[int, o.option("--steps", "Updates.", TRAINING)] = 1000
    batch: Annotated[int, o.option("--batch", "Sequences per update.", TRAINING)] = 8
    anchors: Annotated[int, o.option("--anchors", "Blocks each.", TRAINING)] = 64
    max_length: Annotated[int, o.option("--max-length", "Tokens.", TRAINING)] = 2048
    lr: Annotated[float, o.option("--lr", "Peak learning rate.", TRAINING)] = 6e-4
    warmup: Annotated[float, o.option("--warmup", "Share of steps.", TRAINING)] = 0.04
    clip: Annotated[float, o.option("--clip", "Gradient norm.", TRAINING)] = 1.0
    gamma: Annotated[
        float | None, o.option("--gamma", "Decay of slot weights.", TRAINING)
    ] = None
    held_out: Annotated[int, o.option("--held-out", "For tests.", TRAINING)] = 32
    eval_every: Annotated[int, o.option("--eval-every", "Updates.", TRAINING)] = 100
    save_every: Annotated[int, o.option("--save-every", "Updates.", TRAINING)] = 100
    seed: Annotated[int, o.option("--seed", "Of everything.", TRAINING)] = 0


@command
def train(
    data: Annotated[Path, typer.Option(help="JSONL of prompts or conversations.")],
    out: Annotated[Path, typer.Option(help="Folder of the drafter; resumes there.")],
    model: o.Model = "tiny",
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    *,
    training: Training,
    temp: o.Temp = 0.0,
    max_tokens: o.MaxTokens = 512,
):
    """Train a drafter for a model, on answers that the model writes itself.

    Run it again with the same settings to go on after an interruption.

    dflash-mlx train --model qwen3-8b --data prompts.jsonl --out my-drafter

    dflash-mlx train --data mine.jsonl --out tuned --warm-start qwen3-8b --steps 200
    """
    from ..terminal.train import run
    from ..train.settings import TrainOptions

    taps = o.numbers(training.taps, "--taps") if training.taps else None
    settings = TrainOptions(**asdict(training) | {"taps": taps})
    run(
        settings,
        data,
        out,
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        temp=temp,
        max_tokens=max_tokens,
    )
