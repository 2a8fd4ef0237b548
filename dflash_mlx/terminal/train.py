"""`train`: load the target, let it write answers, train a drafter, report progress.

Owns the order of these steps and the progress lines. Does not know how training works.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..cache import rollback
from ..errors import OptionError
from ..train.answers import read_conversations, write_answers
from ..train.options import TrainOptions
from ..train.trainer import StepReport, Trainer, check_held_out, initial_drafter
from .drafters import load_target
from .streams import print_notice


def run(
    options: TrainOptions,
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
        options: Settings of the training.
        data: JSONL file of prompts or conversations.
        out: Receives config.json, model.safetensors, training.json, the answers and
            the checkpoint.
        model, quantize, trust_remote_code: The target.
        temp, max_tokens: How the target writes its answers.
    """
    conversations = read_conversations(data)
    pair, tokenizer = load_target(model, quantize, trust_remote_code)
    # Check what can fail before the target writes for hours.
    check_held_out(len(conversations), options)
    initial_drafter(pair, tokenizer, options)
    rollback.check(pair.target.make_cache())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--out {out} cannot be a folder: {error}.") from None
    examples = write_answers(
        pair,
        tokenizer,
        conversations,
        out / "answers.jsonl",
        max_tokens=max_tokens,
        temp=temp,
        seed=options.seed,
        progress=lambda done, total: print_notice(f"answers {done}/{total}"),
    )
    trainer = Trainer(pair, tokenizer, examples, options, out)
    first = trainer.step
    if first:
        print_notice(f"Resuming at step {first}.")
    began = time.perf_counter()

    def print_progress(report: StepReport):
        seconds = (time.perf_counter() - began) / (report.step - first)
        if report.held_out or report.step % 10 == 0:
            left = seconds * (report.steps - report.step)
            print_notice(progress_line(report, left))

    trainer.train(print_progress)
    print_notice(f"Wrote {out}. Use it with --draft {out}.")


def progress_line(report: StepReport, seconds_left: float) -> str:
    """Loss, acceptance by position, held-out tokens per round, speed, time left."""
    accepted = " ".join(f"{share:.2f}" for share in report.acceptance)
    held_out = ""
    if report.held_out is not None:
        held_out = f" | held out {report.held_out:.2f} tokens per round"
    return (
        f"step {report.step}/{report.steps} | loss {report.loss:.3f} | "
        f"accepted {accepted}{held_out} | {report.tokens_per_second:.0f} tokens/s | "
        f"{seconds_left / 60:.0f} min left"
    )
