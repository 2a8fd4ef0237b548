"""What a round costs: seconds by source of the drafts, width and context length.

Owns a curve that was calibrated (or assumed), and corrections of it by the rounds that
were timed. Does not know tokens and chooses no width; see controller.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

# Sources of a round's drafts: none, the drafter, prompt lookup, a grammar that allows
# one text only.
PLAIN, DRAFTER, LOOKUP, FORCED = "plain", "drafter", "lookup", "grammar"


@dataclass(frozen=True)
class Curve:
    """Seconds of passes on one machine, measured or assumed.

    Args:
        verify: Rows -> seconds of the target's pass, 1 row included.
        draft: Rows -> seconds of the drafter's pass.
        assumed: The values were not measured: at best their ratios are right.
        cut_short: Some widths were not measured, because that would have taken long.
    """

    verify: Mapping[int, float]
    draft: Mapping[int, float]
    assumed: bool = False
    cut_short: bool = False

    def seconds(self, source: str, width: int) -> float:
        """Seconds of a round with `width` rows."""
        drafting = interpolate(self.draft, width) if source == DRAFTER else 0.0
        return interpolate(self.verify, width) + drafting

    def scaled(self, factor: float) -> Curve:
        """The same curve, every pass taking `factor` times as long."""
        verify, draft = (
            {width: factor * seconds for width, seconds in points.items()}
            for points in (self.verify, self.draft)
        )
        return Curve(verify, draft, self.assumed, self.cut_short)


# Before anything is measured: a pass bound by memory, and a drafter of a few layers.
# In target passes of one row.
ASSUMED = Curve({1: 1.0, 16: 1.5}, {2: 0.12, 16: 0.15}, assumed=True)


def interpolate(points: Mapping[int, float], at: int) -> float:
    """Interpolate linearly; the outer segments continue beyond the points.

    Beyond the last point the value does not fall: a last segment that falls is noise,
    and would make wide blocks free.
    """
    xs = sorted(points)
    if len(xs) == 1:
        return points[xs[0]]
    right = next((i for i, x in enumerate(xs) if x >= at), len(xs) - 1)
    low, high = xs[max(right - 1, 0)], xs[max(right, 1)]
    slope = (points[high] - points[low]) / (high - low)
    if at > high:
        return points[high] + max(slope, 0.0) * (at - high)
    return max(points[low] + slope * (at - low), 1e-9)


# Difference of two widths' logarithms at which one counts 1/e for the other. Without
# such a limit one slow width makes all others look slow.
REACH = 0.5


@cache
def similarity(width: int, other: int) -> float:
    """How much a round of one width counts for another; 1 for equal widths."""
    return math.exp(-abs(math.log(width / other)) / REACH)


@dataclass
class Correction:
    """How far timed rounds of one source and width are from the curve.

    Args:
        log: Logarithm of measured over expected seconds, smoothed.
        rounds: Rounds that were timed.
    """

    log: float
    rounds: int = 0

    RATE = 0.12  # least weight of a new round, so that about the last 8 count
    JUMP = math.log(2.0)  # most that one round may differ: an outlier counts no more

    def update(self, log: float, prior: bool = True) -> None:
        """Add a round.

        Args:
            log: Logarithm of its measured over its expected seconds.
            prior: Whether there was an estimate before the first round.
        """
        self.rounds += 1
        step = log - self.log
        # The first round may have compiled a kernel: the second one replaces it.
        if self.rounds > 2 or (self.rounds == 1 and prior):
            step = max(-self.JUMP, min(self.JUMP, step))
        self.log += step * max(self.RATE, 1.0 / max(self.rounds - prior, 1))


class Costs:
    """Estimates the seconds of a round from a curve and the rounds that were timed.

    A timed round corrects the curve at its own width, and less at other widths. A
    longer context starts from the corrections of the nearest one.

    Args:
        curve: From a calibration, or ASSUMED.
    """

    FIRST_CONTEXT = 256  # rows; the first range ends here, later ones at twice as many
    NEIGHBOR_WEIGHT = 0.5  # rounds that all other widths together count as
    ENOUGH_ROUNDS = 8  # plain rounds that are enough to check the curve
    RECOVERY = 0.005  # share of another width's difference removed per plain round

    def __init__(self, curve: Curve = ASSUMED):
        self.reset(curve)

    def reset(self, curve: Curve) -> None:
        """Replace the curve and drop all corrections."""
        self.curve = curve
        self._curve_seconds = cache(curve.seconds)
        # Context range -> (source, width) -> correction.
        self.corrections: dict[int, dict[tuple[str, int], Correction]] = {}
        # Context range -> plain rounds with the caller's time: never below a pass.
        self.plain_periods: dict[int, Correction] = {}
        self._memo: dict[tuple[str, int, int], float] = {}  # until the next round

    @property
    def plain_is_known(self) -> bool:
        """Whether plain rounds were timed, here or by a calibration."""
        return bool(self.plain_periods) or not self.curve.assumed

    def plain_seconds(self, context: int) -> float | None:
        """Seconds of a plain round, or None if none was ever timed."""
        return self.seconds(PLAIN, 1, context) if self.plain_is_known else None

    def plain_ratio(self) -> float:
        """Measured seconds of plain rounds over the curve's; 1 if few were timed.

        It is taken where it is lowest. The caller's time is included, since the next
        pass runs meanwhile.
        """
        periods = self.plain_periods.values()
        logs = [period.log for period in periods if period.rounds >= self.ENOUGH_ROUNDS]
        return math.exp(min(logs, default=0.0))

    def record(
        self,
        source: str,
        width: int,
        context: int,
        seconds: float,
        caller_seconds: float = 0.0,
    ) -> None:
        """Add a timed round.

        Args:
            source, width: As in its plan.
            context: Rows before it.
            seconds: Without the caller's time.
            caller_seconds: What the caller spent during it.
        """
        usual, measured = self._curve_seconds(source, width), not self.curve.assumed
        log = math.log(max(seconds, 1e-9) / usual)
        table = self._table(context, create=True)
        if (source, width) not in table:
            known = math.log(self._corrected(source, width, table) / usual)
            table[source, width] = Correction(known if measured else log)
        correction = table[source, width]
        correction.update(log, measured)
        if source == PLAIN:
            log = math.log(max(seconds + caller_seconds, 1e-9) / usual)
            period = self.plain_periods.setdefault(
                self._range(context), Correction(0.0)
            )
            period.update(log, measured)
            self._recover(table, correction.log)
        self._memo.clear()

    def _recover(self, table, plain_log):
        """Move widths towards plain rounds, or one that was slow is never tried."""
        for (source, _), correction in table.items():
            if source != PLAIN:
                correction.log += self.RECOVERY * (plain_log - correction.log)

    def seconds(self, source: str, width: int, context: int) -> float:
        """Seconds of a round of `width` rows after `context` rows."""
        key = source, width, self._range(context)
        found = self._memo.get(key)
        if found is None:  # another thread may clear the memo meanwhile
            found = self._corrected(source, width, self._table(context))
            self._memo[key] = found
        return found

    def _corrected(self, source, width, table):
        """The curve's seconds, corrected by this width's rounds and by others."""
        own = table.get((source, width))
        weights = log = 0.0
        for (_, other), correction in table.items():
            if correction is not own:
                weight = similarity(width, other)
                weights, log = weights + weight, log + weight * correction.log
        log = log / weights if weights else 0.0
        if own:
            near = self.NEIGHBOR_WEIGHT if weights else 0.0
            mine = max(own.rounds, self.NEIGHBOR_WEIGHT)
            log = (mine * own.log + near * log) / (mine + near)
        return self._curve_seconds(source, width) * math.exp(log)

    def draft_seconds(self, width: int, context: int) -> float:
        """Seconds of the draft pass alone, for a block of `width` rows."""
        seconds = self.seconds(DRAFTER, width, context)
        ratio = seconds / self._curve_seconds(DRAFTER, width)
        return interpolate(self.curve.draft, width) * ratio

    def plain_was_timed(self, context: int) -> bool:
        """Whether a plain round was timed in this range of contexts."""
        table = self.corrections.get(self._range(context), {})
        correction = table.get((PLAIN, 1))
        return correction is not None and correction.rounds > 0

    def _range(self, context):
        return (context // self.FIRST_CONTEXT).bit_length()

    def _table(self, context, create=False):
        """The corrections of a context's range, or of the nearest range that has any.

        Args:
            context: Rows.
            create: Give the range its own, beginning with those of the nearest.
        """
        at = self._range(context)
        if at not in self.corrections:
            if not create:
                known = min(
                    self.corrections, key=lambda other: abs(other - at), default=None
                )
                return {} if known is None else self.corrections[known]
            near = self._table(context)
            self.corrections[at] = {k: Correction(c.log) for k, c in near.items()}
        return self.corrections[at]


class Stopwatch:
    """Measures laps without the pauses in them.

    Args:
        clock: Returns seconds; never decreases.

    Attributes:
        paused_seconds: The pauses of the last lap.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.since = clock()
        self.paused_seconds = self._pauses = 0.0

    def lap(self) -> float:
        """Start a new lap; return the seconds of the last one without its pauses."""
        now = self.clock()
        seconds, self.since = now - self.since, now
        self.paused_seconds, self._pauses = self._pauses, 0.0
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside."""
        then = self.clock()
        yield
        pause = self.clock() - then
        self.since, self._pauses = self.since + pause, self._pauses + pause
