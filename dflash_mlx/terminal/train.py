"""`train`: load, let the target write, train, say how it goes."""

from __future__ import annotations

import time
from pathlib import Path

from ..cache import rollback
from ..errors import OptionError
from ..loading import check_options, load
from ..train.answers import read_questions, write_answers
from ..train.drafter import (
    Report,
    Run,
    check_enough,
    start,
)
from ..train.settings import TrainOptions
from . import download
from .answer_request import note


def run(
    settings: TrainOptions,
    data: Path,
    out: Path,
    *,
    model: str,
    quantize: int | None,
    trust_remote_code: bool,
    temp: float,
    max_tokens: int,
) -> None:
    """Train a drafter for `model` on `data`, in folder `out`.

    Args:
        settings: Of the training.
        data: JSONL file of prompts or conversations.
        out: Gets config.json, model.safetensors, training.json, the answers and the
            checkpoint.
        model, quantize, trust_remote_code: The target.
        temp, max_tokens: How the target writes its answers.
    """
    questions = read_questions(data)
    check_options(quantize)
    download.fetch(model, "none", notice=note)
    pair, tokenizer = load(
        model,
        "none",
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        kernels="off",  # they have no gradients
    )
    # What can fail is tried before the target writes for hours.
    check_enough(len(questions), settings)
    start(pair, tokenizer, settings)
    rollback.check(pair.target.make_cache())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--out {out} cannot be a folder: {error}.") from None
    examples = write_answers(
        pair,
        tokenizer,
        questions,
        out / "answers.jsonl",
        max_tokens=max_tokens,
        temp=temp,
        seed=settings.seed,
        progress=lambda done, all: note(f"answers {done}/{all}"),
    )
    job = Run(pair, tokenizer, examples, settings, out)
    if job.step:
        note(f"Going on from step {job.step}.")
    began, first = time.perf_counter(), job.step

    def progress(report: Report):
        done = report.step - first
        left = (time.perf_counter() - began) / done * (report.steps - report.step)
        if report.held_out or report.step % 10 == 0:
            note(line(report, left))

    job.go(progress)
    note(f"Wrote {out}. Use it with --draft {out}.")


def line(report: Report, seconds_left: float) -> str:
    """Loss, acceptance by position, held-out tokens per round, speed, time left."""
    kept = " ".join(f"{share:.2f}" for share in report.acceptance)
    held = ""
    if report.held_out is not None:
        held = f" | held out {report.held_out:.2f} tokens per round"
    return (
        f"step {report.step}/{report.steps} | loss {report.loss:.3f} | "
        f"accepted {kept}{held} | {report.tokens_per_second:.0f} tok/s | "
        f"{seconds_left / 60:.0f} min left"
    )
