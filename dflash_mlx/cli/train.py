"""`train`: a drafter for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import completion
from ..terminal import options as o
from .app import command

TRAINING = "Training"


@command
def train(
    data: Annotated[Path, typer.Option(help="JSONL of prompts or conversations.")],
    out: Annotated[Path, typer.Option(help="Folder of the drafter; resumes there.")],
    model: o.Model = "tiny",
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kind: Annotated[
        str,
        o.option(
            "--kind",
            "dflash, dflash2 or dspark.",
            TRAINING,
            autocompletion=completion.words(*completion.KINDS),
        ),
    ] = "dflash",
    warm_start: Annotated[
        str | None,
        o.option("--warm-start", "A drafter to start from: its body stays.", TRAINING),
    ] = None,
    block_size: Annotated[
        int | None, o.option("--block-size", "Rows; 16.", TRAINING)
    ] = None,
    layers: Annotated[
        int | None, o.option("--layers", "Draft layers; 5.", TRAINING)
    ] = None,
    rank: Annotated[
        int | None, o.option("--rank", "Of the selector or Markov head; 256.", TRAINING)
    ] = None,
    markov_head: Annotated[
        str | None,
        o.option(
            "--markov-head",
            "vanilla, gated or rnn.",
            TRAINING,
            autocompletion=completion.words("vanilla", "gated", "rnn"),
        ),
    ] = None,
    taps: Annotated[
        str | None, o.option("--taps", "Target layers to read: 1,9,17.", TRAINING)
    ] = None,
    mask_token_id: Annotated[
        int | None, o.option("--mask-token-id", "An id that text lacks.", TRAINING)
    ] = None,
    context_window: Annotated[
        int | None, o.option("--context-window", "Rows it is shown.", TRAINING)
    ] = None,
    steps: Annotated[int, o.option("--steps", "Updates.", TRAINING)] = 1000,
    batch: Annotated[int, o.option("--batch", "Sequences per update.", TRAINING)] = 8,
    anchors: Annotated[int, o.option("--anchors", "Blocks each.", TRAINING)] = 64,
    max_length: Annotated[int, o.option("--max-length", "Tokens.", TRAINING)] = 2048,
    lr: Annotated[float, o.option("--lr", "Peak learning rate.", TRAINING)] = 6e-4,
    warmup: Annotated[float, o.option("--warmup", "Share of steps.", TRAINING)] = 0.04,
    clip: Annotated[float, o.option("--clip", "Gradient norm.", TRAINING)] = 1.0,
    gamma: Annotated[
        float | None, o.option("--gamma", "Decay of slot weights.", TRAINING)
    ] = None,
    held_out: Annotated[int, o.option("--held-out", "For tests.", TRAINING)] = 32,
    eval_every: Annotated[int, o.option("--eval-every", "Updates.", TRAINING)] = 100,
    save_every: Annotated[int, o.option("--save-every", "Updates.", TRAINING)] = 100,
    seed: Annotated[int, o.option("--seed", "Of everything.", TRAINING)] = 0,
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

    layers_read = o.numbers(taps, "--taps") if taps else None
    settings = TrainOptions(
        kind=kind,
        warm_start=warm_start,
        rank=rank,
        markov_head=markov_head,
        block_size=block_size,
        layers=layers,
        taps=layers_read,
        mask_token_id=mask_token_id,
        context_window=context_window,
        steps=steps,
        batch=batch,
        anchors=anchors,
        max_length=max_length,
        lr=lr,
        warmup=warmup,
        clip=clip,
        gamma=gamma,
        held_out=held_out,
        eval_every=eval_every,
        save_every=save_every,
        seed=seed,
    )
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
