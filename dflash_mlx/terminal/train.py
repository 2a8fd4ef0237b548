"""`train`: load the target, let it write answers, train a drafter, report progress.

Owns the order of these steps and the progress lines. Does not know how training works.
"""

from __future__ import annotations

import time
from pathlib import Path

from ..cache import rollback
from ..errors import OptionError
from ..train.answers import check_end, read_conversations, write_answers
from ..train.options import TrainOptions
from ..train.trainer import StepReport, Trainer, held_out_of, initial_drafter
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
    check_end(tokenizer)
    # Check what can fail before the target writes for hours.
    held_out = held_out_of(len(conversations), options)
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
        progress=lambda done, total: print_notice(
            f"The model has answered {done} of {total} conversations."
        ),
    )
    trainer = Trainer(pair, tokenizer, examples, options, out)
    print_notice(
        f"Training on {len(trainer.examples)} conversations; {held_out} are held out "
        "to count the tokens per round."
    )
    if trainer.step:
        print_notice(f"Resuming at step {trainer.step}.")
    trainer.train(ProgressLines(trainer.step))
    print_notice(f"Wrote {out}. Use it with --draft {out}.")


class ProgressLines:
    """Prints a line after the first step, after evaluations, and every ten seconds.

    Call it with a StepReport after every step.

    Args:
        step: Steps that were done before this run.
    """

    SECONDS = 10.0

    def __init__(self, step: int):
        self.first, self.start = step, time.perf_counter()
        self.printed: float | None = None

    def __call__(self, report: StepReport) -> None:
        now = time.perf_counter()
        recent = self.printed is not None and now - self.printed < self.SECONDS
        if recent and report.held_out is None:
            return
        self.printed = now
        per_step = (now - self.start) / (report.step - self.first)
        print_notice(progress_line(report, per_step * (report.steps - report.step)))


def progress_line(report: StepReport, seconds_left: float) -> str:
    """Loss, tokens per round in training and on held-out text, speed, time left.

    training.json has the acceptance by position.
    """
    rounds = f"{1 + sum(report.acceptance):.2f} tokens per round"
    if report.held_out is not None:
        rounds += f", {report.held_out:.2f} on held-out text"
    return (
        f"step {report.step}/{report.steps} | loss {report.loss:.3f} | {rounds} | "
        f"{report.tokens_per_second:,.0f} tokens/s | {time_left(seconds_left)} left"
    )


def time_left(seconds: float) -> str:
    """A duration with one unit, for example 40 s, 12 min or 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
