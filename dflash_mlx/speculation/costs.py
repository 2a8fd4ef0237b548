"""What a round costs: seconds by proposer, rows and context, as rounds show it.

Owns a curve that was calibrated (or guessed) and how far rounds are off it now. Knows
no tokens and chooses nothing: width.py does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

PLAIN, DRAFTER, LOOKUP = "plain", "drafter", "lookup"


@dataclass(frozen=True)
class Curve:
    """Seconds of passes on one machine, measured or guessed.

    Args:
        verify: Rows -> seconds of the target's pass, 1 row included.
        draft: Rows -> seconds of the drafter's.
        guessed: Nobody measured it: right in shape at best.
    """

    verify: Mapping[int, float]
    draft: Mapping[int, float]
    guessed: bool = False

    def seconds(self, source: str, width: int) -> float:
        """Seconds of a round with `width` rows."""
        drafting = between(self.draft, width) if source == DRAFTER else 0.0
        return between(self.verify, width) + drafting

    def times(self, factor: float) -> Curve:
        """The same curve on a machine that takes `factor` times as long."""
        verify, draft = (
            {width: factor * seconds for width, seconds in points.items()}
            for points in (self.verify, self.draft)
        )
        return Curve(verify, draft, self.guessed)


# Before anything was measured: a pass bound by memory, and a drafter of a few layers.
GUESS = Curve({1: 1.0, 16: 1.5}, {2: 0.12, 16: 0.15}, guessed=True)


def between(points: Mapping[int, float], at: int) -> float:
    """A polygon through `points`, its last pieces going on beyond them, but not
    downwards: noise would make wide blocks free."""
    xs = sorted(points)
    if len(xs) == 1:
        return points[xs[0]]
    right = next((i for i, x in enumerate(xs) if x >= at), len(xs) - 1)
    low, high = xs[max(right - 1, 0)], xs[max(right, 1)]
    slope = (points[high] - points[low]) / (high - low)
    if at > high:
        return points[high] + max(slope, 0.0) * (at - high)
    return max(points[low] + slope * (at - low), 1e-9)


REACH = 0.5  # difference of logarithms of widths over which one tells of another


@cache
def nearness(width: int, other: int) -> float:
    """How much rounds of one width tell of another, 1 at most."""
    return math.exp(-abs(math.log(width / other)) / REACH)


@dataclass
class Drift:
    """How far rounds of one kind are off the curve: a logarithm that follows them."""

    log: float
    rounds: int = 0

    RATE = 0.12  # weight of one round among many
    JUMP = math.log(2.0)  # a round off by more is believed so far only

    def follow(self, log: float, sure: bool = True) -> None:
        """Take in a round; `sure`: there was a measurement before the first one."""
        self.rounds += 1
        step = log - self.log
        # The second one tells whether the first was like those to come.
        if self.rounds > 2 or (self.rounds == 1 and sure):
            step = max(-self.JUMP, min(self.JUMP, step))
        self.log += step * max(self.RATE, 1.0 / max(self.rounds - sure, 1))


class Costs:
    """Seconds of a round, now.

    Rounds of a width correct the curve there, and less so at other widths; a longer
    context starts from what the shorter one had.

    Args:
        curve: From a calibration, or GUESS.
    """

    FIRST_CONTEXT = 256  # rows; contexts of twice as many are another range
    NEAR = 0.5  # rounds that other widths are worth at one of its own
    ENOUGH = 8  # plain rounds that tell whether the curve is right
    FORGET = 0.005  # of what other rounds were off goes with a plain one

    def __init__(self, curve: Curve = GUESS):
        self.use(curve)

    def use(self, curve: Curve) -> None:
        """Begin anew from a curve."""
        self.curve = curve
        self._seconds_of = cache(curve.seconds)
        self.ranges: dict[int, dict[tuple[str, int], Drift]] = {}
        # Plain rounds with the caller's time: never shorter than a pass.
        self.periods: dict[int, Drift] = {}
        self._found: dict[tuple[str, int, int], float] = {}  # until the next round

    @property
    def known(self) -> bool:
        """Whether plain rounds were measured, here or by a calibration."""
        return bool(self.periods) or not self.curve.guessed

    def plain(self, context: int) -> float | None:
        """Seconds of a plain round, if anyone has measured one."""
        return self.seconds(PLAIN, 1, context) if self.known else None

    def plain_off(self) -> float:
        """By what factor plain rounds are off the curve, where they are fastest; 1 if
        too few were timed. The caller's time counts: a pass goes on meanwhile."""
        drifts = self.periods.values()
        logs = [drift.log for drift in drifts if drift.rounds >= self.ENOUGH]
        return math.exp(min(logs, default=0.0))

    def see(
        self, source: str, width: int, context: int, seconds: float, away: float = 0.0
    ) -> None:
        """Take in a round of so many seconds, and `away` of the caller's beside it."""
        usual, sure = self._seconds_of(source, width), not self.curve.guessed
        log = math.log(max(seconds, 1e-9) / usual)
        table = self._table(context, make=True)
        if (source, width) not in table:
            known = math.log(self._seconds(source, width, table) / usual)
            table[source, width] = Drift(known if sure else log)
        drift = table[source, width]
        drift.follow(log, sure)
        if source == PLAIN:
            log = math.log(max(seconds + away, 1e-9) / usual)
            at = self._range(context)
            self.periods.setdefault(at, Drift(0.0)).follow(log, sure)
            self._forget(table, drift.log)
        self._found.clear()

    def _forget(self, table, log):
        """What was slow once is tried again, though nobody tries it now."""
        for (source, _), drift in table.items():
            if source != PLAIN:
                drift.log += self.FORGET * (log - drift.log)

    def seconds(self, source: str, width: int, context: int) -> float:
        """Seconds of a round."""
        key = source, width, self._range(context)
        found = self._found.get(key)
        if found is None:  # another thread's round may empty the table meanwhile
            found = self._seconds(source, width, self._table(context))
            self._found[key] = found
        return found

    def _seconds(self, source, width, table):
        """The curve's seconds, off by what rounds of this width and others were."""
        own = table.get((source, width))
        weights = log = 0.0
        for (_, other), drift in table.items():
            if drift is not own:
                weight = nearness(width, other)
                weights, log = weights + weight, log + weight * drift.log
        log = log / weights if weights else 0.0
        if own:
            near, mine = self.NEAR if weights else 0.0, max(own.rounds, self.NEAR)
            log = (mine * own.log + near * log) / (mine + near)
        return self._seconds_of(source, width) * math.exp(log)

    def drafting(self, width: int, context: int) -> float:
        """Seconds of drafting `width` rows, alone."""
        off = self.seconds(DRAFTER, width, context) / self._seconds_of(DRAFTER, width)
        return between(self.curve.draft, width) * off

    def knows_plain(self, context: int) -> bool:
        """Whether a plain round was measured at about this context."""
        drift = self.ranges.get(self._range(context), {}).get((PLAIN, 1))
        return drift is not None and drift.rounds > 0

    def _range(self, context):
        return (context // self.FIRST_CONTEXT).bit_length()

    def _table(self, context: int, make: bool = False):
        """Drifts at about this context, or those of the nearest one known."""
        at = self._range(context)
        if at not in self.ranges:
            if not make:
                known = min(self.ranges, key=lambda k: abs(k - at), default=None)
                return {} if known is None else self.ranges[known]
            near = self._table(context)
            self.ranges[at] = {k: Drift(d.log, 0) for k, d in near.items()}
        return self.ranges[at]


class Stopwatch:
    """Seconds between events, without the time that somebody else had.

    Args:
        clock: Seconds that never go back.

    Attributes:
        away: Seconds that somebody else had before the last lap.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.since = clock()
        self.away = self._pauses = 0.0

    def lap(self) -> float:
        """Seconds since the last lap, pauses left out."""
        now = self.clock()
        seconds, self.since = now - self.since, now
        self.away, self._pauses = self._pauses, 0.0
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile does not count."""
        then = self.clock()
        yield
        pause = self.clock() - then
        self.since, self._pauses = self.since + pause, self._pauses + pause
