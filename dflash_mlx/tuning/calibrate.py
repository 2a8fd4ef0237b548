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
from ..decoding.passes import Passes, PendingPass
from ..decoding.sampling import Chooser
from ..hub.registry import numbers_of
from ..pair import Pair
from ..speculation.controller import Plan
from ..speculation.costs import DRAFTER, Curve
from ..store import Store, cache_folder
from ..types import KVBits, Sampling

# Seconds after which no further width is begun; the ends of the curve come first.
BUDGET = 1.5
MIN_WIDTHS = 3  # measured even if they take longer
REPEATS = 3
PROMPT = 32  # rows before the passes that are timed
# If plain rounds take less than this share of the curve's time, other programs slowed
# the machine down while the curve was measured.
RECHECK_RATIO = 0.7
MEASURING = "Measuring the speed of this model once."


def default_file() -> Path:
    """The file of this user's curves."""
    return cache_folder() / "costs.json"


def default_store() -> Store:
    """The curves of this machine, in this user's file."""
    return Store(machine(), default_file())


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
    pair: Pair, notice: Callable[[str], None], store: Store | None = None
) -> None:
    """Give a pair this machine's curve: the stored one, or a new measurement.

    Args:
        pair: The curve is put into its `history`. Without a drafter, nothing is done.
        notice: Called with one line of text if something is measured.
        store: Where curves are stored; this user's file by default.
    """
    if pair.drafter is None:
        return
    store = store or default_store()
    key = curve_key(pair)
    curve = parse_curve(store.all().get(key))
    if curve is None:
        notice(MEASURING)
        curve = measure(pair)
        store.put(key, {"verify": curve.verify, "draft": curve.draft})
    pair.history.costs.reset(curve)


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
    return Curve(verify, draft) if valid and 1 in verify and draft else None


def measure(
    pair: Pair, clock: Callable[[], float] = time.perf_counter, budget: float = BUDGET
) -> Curve:
    """Time passes of several widths after a short random prompt.

    Args:
        pair: A pair with a drafter.
        clock: Returns seconds.
        budget: Seconds after which no further width is begun.
    """
    started = clock()
    key, vocab = mx.random.key(0), pair.target.vocab_size
    prompt = mx.random.randint(0, vocab, (PROMPT,), key=key).tolist()
    cache, chooser = PromptCache(pair), Chooser(Sampling())
    passes = Passes(pair, cache, prompt, chooser, KVBits(), drafting=True)
    commit_one(passes, passes.prefill(PROMPT))
    verify, draft = {1: plain_seconds(passes, clock)}, {}
    for done, width in enumerate(widths_to_measure(pair.drafter.block_size), 2):
        if done > MIN_WIDTHS and clock() - started > budget:
            break
        times = []
        for _ in range(1 + REPEATS):  # the first one warms up
            times.append(round_seconds(passes, width, clock))
        drafts, verifies = zip(*times[1:], strict=True)
        draft[width], verify[width] = median(drafts), median(verifies)
    passes.close()
    return Curve(verify, draft)


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
