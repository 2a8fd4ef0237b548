"""What a benchmark's answers mean together: rows of figures, and what spoils them.

Owns medians, spreads, ratios to plain decoding, and the names that engines are shown
by: those that the answers' own statistics give. Runs nothing and prints nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from ..stats import Stats
from .benchmark import Difference, Run
from .contenders import PLAIN

# A tail of so many tokens with a period of so many or less is a loop.
TAIL, PERIOD = 64, 8
# So is a text with fewer different runs of four tokens than this share.
DISTINCT = 0.4
# Answers of fewer tokens are too short for a speed.
SHORT = 16
# Plain decoding's own speed should not change by more in the course of a benchmark.
DRIFT = 0.1


@dataclass(frozen=True)
class Spread:
    """A figure over repeats: its least, quartiles, median and greatest."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of some values, or None of none."""
        if not values:
            return None
        low, middle, high = (
            quantiles(values, n=4, method="inclusive")
            if len(values) > 1
            else [values[0]] * 3
        )
        return cls(min(values), low, middle, high, max(values))


@dataclass
class Row:
    """A contender on the prompts of a class, at a temperature and context.

    Args:
        kind, contender, temp, context: Which.
        engine: What answered, by the answers' statistics.
        prompts: How many.
        tokens_per_second: Behind the first token; over repeats, of the median prompt.
        first_token: Seconds until it, likewise.
        of_plain: Median over prompts of its median speed to plain decoding's.
        worst, worst_prompt: The least of these, and where.
        of_best_width: The same to the fixed width that is best in this class.
        tokens_per_round: Of all answers together; None where nothing tells.
        acceptance, drafted_at: How often the draft of each position was kept, of how
            many.
        rounds_by_width: Rounds of each width.
        lookup_rounds: Rounds whose drafts came from the text itself.
        peak: Most bytes held.
        compared: Whether texts were compared with plain decoding's.
        differences: (how the prompt begins, the difference) of those that differ.
        loops, short: Prompts whose answers repeat themselves; or that have fewer
            than SHORT tokens.
        counted: Who counted the tokens.
    """

    kind: str
    contender: str
    temp: float
    context: int
    engine: str
    prompts: int
    tokens_per_second: Spread | None
    first_token: Spread
    of_plain: float | None = None
    worst: float | None = None
    worst_prompt: str = ""
    of_best_width: float | None = None
    tokens_per_round: float | None = None
    acceptance: list[float] = field(default_factory=list)
    drafted_at: list[int] = field(default_factory=list)
    rounds_by_width: dict[int, int] = field(default_factory=dict)
    lookup_rounds: int = 0
    peak: int | None = None
    compared: bool = False
    differences: list[tuple[str, Difference]] = field(default_factory=list)
    loops: int = 0
    short: int = 0
    counted: str = "stream"

    @property
    def speculates(self) -> bool:
        """Whether it is one of ours that was free to draft."""
        return self.contender == "auto" or self.contender.isdigit()


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """A row for each class, temperature, context and contender, in the order asked."""
    cells = grouped(runs, lambda run: (run.prompt.kind, run.temp, run.context))
    rows = []
    for cell in cells.values():
        by_name = grouped(cell, lambda run: run.contender)
        found = [row_of(mine) for mine in by_name.values()]
        for row in found:
            relate(row, by_name)
        rows += found
    return rows


def grouped(items: Iterable, key) -> dict[Hashable, list]:
    """Items by key, in the order of the first of each."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def row_of(runs: Sequence[Run]) -> Row:
    """A contender's runs on the prompts of a class, without others' figures."""
    answers = [answer for run in runs for answer in run.answers]
    stats = pooled([a.stats for a in answers if a.stats is not None])
    first, peaks = runs[0], [a.peak for a in answers if a.peak is not None]
    texts = [run.answers[0].tokens for run in runs]
    row = Row(
        first.prompt.kind,
        first.contender,
        first.temp,
        first.context,
        engine_of(first.contender, stats),
        len(runs),
        over_repeats(runs, lambda answer: answer.speed),
        over_repeats(runs, lambda answer: answer.first),
        peak=max(peaks, default=None),
        compared=all(run.compared for run in runs),
        differences=[(r.prompt.name, r.difference) for r in runs if r.difference],
        loops=sum(map(repeats_itself, texts)),
        short=sum(run.answers[0].count < SHORT for run in runs),
        counted=answers[0].counted,
    )
    if stats is not None:
        row.tokens_per_round = stats.tokens_per_round
        row.acceptance, row.drafted_at = stats.acceptance, stats.drafted_at
        row.rounds_by_width = widths(answers)
        row.lookup_rounds = sum(answer.stats.lookup_rounds for answer in answers)
    return row


def pooled(stats: Sequence[Stats]) -> Stats | None:
    """The counters of all answers; the engine and reason of the one that did most."""
    if not stats:
        return None
    rank = ("plain", "lookup", "dflash").index
    speaker = max(stats, key=lambda each: (drafted(each), rank(each.engine)))
    total = Stats(speaker.engine, speaker.reason)
    for each in stats:
        total.add(each)
    return total


def drafted(stats: Stats) -> bool:
    """Whether any round of an answer was drafted."""
    return stats.drafted > 0


def engine_of(contender: str, stats: Stats | None) -> str:
    """What answered: what was asked for is not enough, a round must have been drafted.

    Args:
        contender: Who was asked.
        stats: Its answers' counters; None for others than ours.
    """
    if stats is None or contender == PLAIN:
        return contender
    if not drafted(stats):
        why = stats.reason if stats.engine == "plain" else ""
        return f"plain ({why or 'parked'})"
    return f"{stats.engine} {contender}"


def widths(answers) -> dict[int, int]:
    """Rounds of each width."""
    counts = Counter()
    for answer in answers:
        for width, (rounds, _) in answer.stats.seconds_by_width.items():
            counts[width] += rounds
    return dict(sorted(counts.items()))


def over_repeats(runs: Sequence[Run], figure) -> Spread | None:
    """The spread over repeats of the median prompt's figure."""
    repeats = []
    for answers in zip(*(run.answers for run in runs), strict=True):
        told = [value for value in map(figure, answers) if value is not None]
        if told:
            repeats.append(median(told))
    return Spread.of(repeats)


def speed(run: Run) -> float | None:
    """A prompt's median speed over repeats."""
    told = [answer.speed for answer in run.answers if answer.speed is not None]
    return median(told) if told else None


def ratios(runs: Sequence[Run], bases: Sequence[Run]) -> list[tuple[float, str]]:
    """(speed to the base's, how the prompt begins), of prompts that have both."""
    both = [
        (speed(run), speed(base), run.prompt.name)
        for run, base in zip(runs, bases, strict=True)
    ]
    return [(ours / theirs, name) for ours, theirs, name in both if ours and theirs]


def relate(row: Row, by_name: dict[str, list[Run]]) -> None:
    """Put a row beside plain decoding, and beside the best fixed width."""
    mine = by_name[row.contender]
    if PLAIN in by_name and row.contender != PLAIN:
        found = ratios(mine, by_name[PLAIN])
        if found:
            row.of_plain = median(ratio for ratio, _ in found)
            row.worst, row.worst_prompt = min(found)
    fixed = [runs for name, runs in by_name.items() if name.isdigit()]
    if row.contender == "auto" and fixed:
        to_each = [[ratio for ratio, _ in ratios(mine, runs)] for runs in fixed]
        row.of_best_width = min(
            (median(each) for each in to_each if each), default=None
        )


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether a text loops: speculation shines on loops, which nobody wants to read."""
    tail = tokens[-TAIL:]
    if len(tail) < TAIL:
        return False
    if any(tail[p:] == tail[:-p] for p in range(1, PERIOD + 1)):
        return True
    runs = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(runs)) < DISTINCT * len(runs)


def drift(runs: Sequence[Run]) -> float | None:
    """By how much plain decoding's speed changed from the first repeat to the last:
    the median over prompts, 0.1 is ten percent faster; None with one repeat."""
    plain = [run for run in runs if run.contender == PLAIN and len(run.answers) > 1]
    ends = [(run.answers[0].speed, run.answers[-1].speed) for run in plain]
    changes = [last / first - 1 for first, last in ends if first and last]
    return median(changes) if changes else None


def drift_warning(change: float | None) -> list[str]:
    """A line where plain decoding's own speed moved too much."""
    if change is None or abs(change) <= DRIFT:
        return []
    return [
        f"plain decoding's own speed changed by {change:+.0%} between the first and "
        "the last repeat: the machine throttles or does other work"
    ]


def worst_row(rows: Sequence[Row], contender: str) -> Row | None:
    """The class in which a contender does worst against plain decoding."""
    found = [r for r in rows if r.contender == contender and r.of_plain is not None]
    return min(found, key=lambda row: row.of_plain, default=None)
