"""What passes of a pair cost here: measured once, in a second or two, and kept.

Owns the measurement and what it depends on. Its outcome is a Curve; what rounds show
later is costs.py's.
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

# Seconds after which no other width is begun; the ends of the curve come first.
BUDGET = 1.5
REPEATS = 3
PROMPT = 32  # rows before the passes that are timed
# Plain rounds this much faster than a curve: it was measured while others ran.
DOUBT = 0.7
FEWEST = 3  # widths that are measured however long it takes
MEASURING = "Measuring what passes cost here, once."


def default_file() -> Path:
    """Where this user's curves are kept."""
    return cache_folder() / "costs.json"


def machine() -> str:
    """What seconds depend on besides the pair."""
    about = device.describe()
    names = ("processor", "device", "cores", "mlx", "dflash_mlx")
    return ", ".join(f"{name} {about[name]}" for name in names)


def about(pair: Pair) -> str:
    """What seconds depend on besides the machine."""
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
    """Give a pair the curve of this machine: the kept one, or a new measurement.

    Args:
        pair: Its `history` gets the curve; a pair without a drafter needs none.
        notice: Told in one line that something is measured.
        store: Where curves are kept; this user's file by default.
    """
    if pair.drafter is None:
        return
    store = store or Store(machine(), default_file())
    key = about(pair)
    curve = read(store.all().get(key))
    if curve is None:
        notice(MEASURING)
        curve = measure(pair)
        store.put(key, {"verify": curve.verify, "draft": curve.draft})
    pair.history.costs.use(curve)


def recheck(pair: Pair, store: Store | None = None) -> None:
    """Correct a pair's curve if plain rounds were much faster than it says, and forget
    the kept one: the next load measures anew.

    Args:
        pair: Behind an answer.
        store: As in `calibrate`.
    """
    costs = pair.history.costs
    off = costs.plain_off()
    if pair.drafter is None or costs.curve.guessed or off > DOUBT:
        return
    (store or Store(machine(), default_file())).forget(about(pair))
    costs.use(costs.curve.times(off))


def read(entry: object) -> Curve | None:
    """The curve of a kept entry, unless it is none."""
    try:
        verify, draft = (
            {int(width): float(seconds) for width, seconds in entry[name].items()}
            for name in ("verify", "draft")
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None
    sound = all(0 < t < math.inf for t in (*verify.values(), *draft.values()))
    return Curve(verify, draft) if sound and 1 in verify and draft else None


def measure(
    pair: Pair, clock: Callable[[], float] = time.perf_counter, budget: float = BUDGET
) -> Curve:
    """Time passes of several widths, behind a short random prompt.

    Args:
        pair: With a drafter.
        clock: Seconds.
        budget: Seconds after which no other width is begun.
    """
    started = clock()
    key, vocab = mx.random.key(0), pair.target.vocab_size
    prompt = mx.random.randint(0, vocab, (PROMPT,), key=key).tolist()
    cache, chooser = PromptCache(pair), Chooser(Sampling())
    passes = Passes(pair, cache, prompt, chooser, KVBits(), drafting=True)
    commit_one(passes, passes.prefill(PROMPT))
    verify, draft = {1: plain_seconds(passes, clock)}, {}
    for done, width in enumerate(order(pair.drafter.block_size), 2):
        if done > FEWEST and clock() - started > budget:
            break
        times = []
        for _ in range(1 + REPEATS):  # the first one warms up
            times.append(round_seconds(passes, width, clock))
        drafts, verifies = zip(*times[1:], strict=True)
        draft[width], verify[width] = median(drafts), median(verifies)
    passes.close()
    return Curve(verify, draft)


def order(widest: int) -> Iterator[int]:
    """Widths above 1, those first that say most of the curve."""
    seen = {1}
    for width in (widest, 2, widest // 2, 4, 6, 3, 12, 5, 8, 24, 32):
        if 1 < width <= widest and width not in seen:
            seen.add(width)
            yield width


def plain_seconds(passes: Passes, clock: Callable[[], float]) -> float:
    """Seconds of a plain round, the next row being sent ahead as in plain decoding."""
    anchor = mx.array(passes.cache.text[-1:])
    sent, times = passes.verify(anchor), []
    for _ in range(2 + REPEATS):
        start = clock()
        ahead = passes.verify(sent.choices)
        commit_one(passes, sent)
        times.append(clock() - start)
        sent = ahead
    commit_one(passes, sent)
    return median(times[2:])


def round_seconds(
    passes: Passes, width: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds of a round's draft, and of the rest of it."""
    start = clock()
    block, _ = passes.draft(Plan(width, DRAFTER))
    mx.eval(block)
    drafted = clock()
    commit_one(passes, passes.verify(block))
    return drafted - start, clock() - drafted


def commit_one(passes: Passes, sent: PendingPass) -> None:
    """Commit the first token of a pass, and no draft."""
    passes.commit(sent.choices[:1].tolist())
