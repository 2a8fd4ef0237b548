"""Measures the time of a pair's passes by width: once per machine, in a second or two.

Owns the measurement, and the keys under which its result is stored. The result is a
Curve; costs.py corrects it by the rounds that follow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import mlx.core as mx
import mlx.nn as nn

from .. import device
from ..cache.prompt_cache import PromptCache
from ..decoding.passes import Passes
from ..decoding.pending import PendingPass
from ..decoding.prefill import prefill
from ..decoding.requests import run_alone
from ..decoding.sampling import Chooser
from ..hub.registry import numbers_of
from ..metal.kernel import KERNEL_ERRORS, error_summary
from ..pair import Pair
from ..speculation.controller import Plan
from ..speculation.costs import DRAFTER, Curve
from ..store import Store, cache_folder, ignore
from ..types import KVBits, Sampling
from .meter import Meter

# Seconds of timed passes after which no further width is begun at this load; the ends
# of the curve come first. The first passes of a width, which compile, do not count.
BUDGET = 1.5
MIN_WIDTHS = 3  # measured even if they take longer
REPEATS = 3
PROMPT = 32  # rows before the passes that are timed
# If plain rounds take less than this share of the curve's time, other programs slowed
# the machine down while the curve was measured.
RECHECK_RATIO = 0.7
MEASURING = (
    "Measuring the speed of this model once, for some seconds. --no-calibration skips "
    "it."
)


def default_file() -> Path:
    """The file of this user's curves."""
    return cache_folder() / "costs.json"


def default_store(notice: Callable[[str], None] = ignore) -> Store:
    """The curves of this machine, in this user's file.

    Args:
        notice: As in Store.
    """
    return Store(machine(), default_file(), notice)


def machine() -> str:
    """What a curve depends on besides the pair, as text."""
    facts = device.describe()
    names = ("processor", "device", "cores", "mlx", "dflash_mlx")
    return ", ".join(f"{name} {facts[name]}" for name in names)


def curve_key(pair: Pair) -> str:
    """What a curve depends on besides the machine, as text."""
    numbers = ", ".join(
        str(number) for number in numbers_of(pair.target.config).values()
    )
    parts = [f"target {numbers}, {device.model_bytes(pair.model)} bytes"]
    kind = type(pair.drafter).__name__
    size = (
        device.model_bytes(pair.drafter) if isinstance(pair.drafter, nn.Module) else 0
    )
    parts.append(f"drafter {kind}, {pair.drafter.block_size} rows, {size} bytes")
    parts.append(f"kernels {', '.join(pair.kernels_in_service) or 'none'}")
    return "; ".join(parts)


def calibrate(
    pair: Pair,
    notice: Callable[[str], None],
    store: Store | None = None,
    measuring: bool = True,
    status: Callable[[str], None] = ignore,
) -> None:
    """Give a pair this machine's curve: the stored one, or a new measurement.

    A stored curve that was cut short is continued.

    Args:
        pair: The curve is put into its `history`. Without a drafter, nothing is done.
        notice: Called with one line of text if something is measured.
        store: Where curves are stored; this user's file by default.
        measuring: Measure what is not stored. Otherwise costs are assumed.
        status: Called with one line of text before each width.
    """
    if pair.drafter is None:
        return
    store = store or default_store(notice)
    key = curve_key(pair)
    curve = parse_curve(store.all().get(key))
    if measuring and (curve is None or curve.cut_short):
        notice(MEASURING)
        meter = Meter("Measuring the speed of passes", status)
        with pair.wired():
            curve = _measure(pair, curve, meter)
        entry = {"verify": curve.verify, "draft": curve.draft}
        # Kernels may have been dropped meanwhile.
        store.put(curve_key(pair), entry | {"cut_short": curve.cut_short})
    if curve is not None:
        pair.history.costs.reset(curve)


def _measure(pair, known, report):
    """As `measure`. If a kernel fails, everything is measured again without kernels."""
    try:
        return measure(pair, known=known, report=report)
    except KERNEL_ERRORS as error:
        if not pair.drop_kernels(error_summary(error)):
            raise
    return measure(pair, report=report)


def recheck(pair: Pair, store: Store | None = None) -> None:
    """Correct a pair's curve if plain rounds were much faster than it says.

    The stored curve is deleted, so that the next load measures again.

    Args:
        pair: A pair that has produced an answer.
        store: As in `calibrate`.
    """
    costs = pair.history.costs
    ratio = costs.plain_ratio()
    if pair.drafter is None or costs.curve.assumed or ratio > RECHECK_RATIO:
        return
    (store or default_store()).forget(curve_key(pair))
    costs.reset(costs.curve.scaled(ratio))


def parse_curve(entry: object) -> Curve | None:
    """The curve in a stored entry; None if the entry is not valid."""
    try:
        verify, draft = (
            {int(width): float(seconds) for width, seconds in entry[name].items()}
            for name in ("verify", "draft")
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None
    valid = all(0 < t < math.inf for t in (*verify.values(), *draft.values()))
    if not (valid and 1 in verify and draft):
        return None
    return Curve(verify, draft, cut_short=entry.get("cut_short") is True)


def measure(
    pair: Pair,
    clock: Callable[[], float] = time.perf_counter,
    budget: float = BUDGET,
    known: Curve | None = None,
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Curve:
    """Time passes of several widths after a short random prompt.

    Args:
        pair: A pair with a drafter.
        clock: Returns seconds.
        budget: Seconds of timed passes after which no further width is begun.
        known: A curve that was cut short. Only what it lacks is measured.
        report: Called before each width with the number of widths that are done, the
            number of all, and what is timed.
    """
    key, vocab = mx.random.key(0), pair.target.vocab_size
    prompt = mx.random.randint(0, vocab, (PROMPT,), key=key).tolist()
    cache, chooser = PromptCache(pair), Chooser(Sampling())
    passes = Passes(pair, cache, prompt, chooser, KVBits(), drafting=True)
    commit_one(passes, run_alone(prefill(passes, PROMPT)))
    verify = dict(known.verify) if known else {}
    draft = dict(known.draft) if known else {}
    widths = list(widths_to_measure(pair.drafter.block_size))
    total, spent, cut_short = 1 + len(widths), 0.0, False
    if not known:
        report(0, total, "1 row")
        verify[1] = plain_seconds(passes, clock)
        spent = REPEATS * verify[1]
    for width in [width for width in widths if width not in draft]:
        if len(verify) >= MIN_WIDTHS and spent > budget:
            cut_short = True
            break
        report(len(verify), total, f"{width} rows")
        round_seconds(passes, width, clock)  # compiles
        times = [round_seconds(passes, width, clock) for _ in range(REPEATS)]
        drafts, verifies = zip(*times, strict=True)
        draft[width], verify[width] = median(drafts), median(verifies)
        spent += sum(map(sum, times))
    passes.close()
    return Curve(verify, draft, cut_short=cut_short)


def widths_to_measure(widest: int) -> Iterator[int]:
    """Yield widths above 1, those first that determine most of the curve."""
    seen = {1}
    for width in (widest, 2, widest // 2, 4, 6, 3, 12, 5, 8, 24, 32):
        if 1 < width <= widest and width not in seen:
            seen.add(width)
            yield width


def plain_seconds(passes: Passes, clock: Callable[[], float]) -> float:
    """Seconds of a plain round. As in plain decoding, the next pass is sent before the
    last one is read."""
    anchor = mx.array(passes.cache.text[-1:])
    pending, times = passes.verify(anchor), []
    for _ in range(2 + REPEATS):
        start = clock()
        following = passes.verify(pending.choices)
        commit_one(passes, pending)
        times.append(clock() - start)
        pending = following
    commit_one(passes, pending)
    return median(times[2:])


def round_seconds(
    passes: Passes, width: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds of a round's draft, and seconds of the rest of the round."""
    start = clock()
    block, _ = passes.draft(Plan(width, DRAFTER))
    mx.eval(block)
    drafted = clock()
    commit_one(passes, passes.verify(block))
    return drafted - start, clock() - drafted


def commit_one(passes: Passes, pending: PendingPass) -> None:
    """Commit the first token of a pass, and no drafts."""
    passes.commit(pending.choices[:1].tolist())
