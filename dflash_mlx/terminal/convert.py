"""`convert`: write a drafter in our own format, and say what that costs."""

from __future__ import annotations

from pathlib import Path

from ..bench.probe import PROMPTS, measure
from ..convert import Changes, convert
from ..hub.find import folder_of_drafter
from ..loading import check_options, check_pair, load
from ..pair import Pair
from . import download
from .answer_request import note


def run(
    name: str,
    out: Path,
    changes: Changes,
    *,
    model: str | None,
    quantize: int | None,
    trust_remote_code: bool,
    prompts: list[str] | None,
    max_tokens: int,
) -> None:
    """Convert the drafter `name` into folder `out`.

    Args:
        name: Folder, Hub id, or the alias of its target.
        out: The new folder.
        changes: What is done to it.
        model: A target to measure tokens per round with, before and after.
        quantize, trust_remote_code: Of that target.
        prompts, max_tokens: Of the measurement.
    """
    folder = folder_of_drafter(name)
    judge = None
    if model is not None:
        check_options(quantize)
        download.fetch(model, "none", notice=note)
        target, tokenizer = load(
            model,
            "none",
            quantize=quantize,
            trust_remote_code=trust_remote_code,
            kernels="off",
        )

        def judge(drafter):
            check_pair(target.target.config, drafter.config)
            pair = Pair.of(target.model, drafter, target.target.config)
            stats = measure(pair, tokenizer, prompts or PROMPTS, max_tokens)
            kept = " ".join(f"{share:.2f}" for share in stats.acceptance)
            note(f"{stats.tokens_per_round:.2f} tokens per round, kept {kept}")

    convert(folder, out, changes, name, judge)
    written = sum(file.stat().st_size for file in out.iterdir())
    note(f"Wrote {out}, {written / 1e6:.1f} MB. Use it with --draft {out}.")
