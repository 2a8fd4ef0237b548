"""Combine the answers of a benchmark into rows of figures.

Owns medians, spreads, ratios to plain decoding, the label of an engine, and the checks
that make figures doubtful (repeating or short answers, drift). Does not run or print
anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles

from ..stats import Stats
from .benchmark import Difference, Run
from .contenders import PLAIN, Answer

# A text repeats itself if its last LOOP_TAIL tokens have a period of LOOP_PERIOD or
# less, or if fewer than MIN_DISTINCT of its sequences of four tokens are distinct.
LOOP_TAIL, LOOP_PERIOD = 64, 8
MIN_DISTINCT = 0.4
# Answers with fewer tokens are too short to measure a speed.
SHORT = 16
# The largest change of plain decoding's speed during a benchmark without a warning.
MAX_DRIFT = 0.1


@dataclass(frozen=True)
class Spread:
    """Minimum, lower quartile, median, upper quartile and maximum over repeats."""

    least: float
    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of some values; None if there are none."""
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
    """The figures of a contender on one class, at one temperature and context.

    Args:
        kind: The class of the prompts.
        contender, temp, context: As in Run.
        engine: The engine that answered, from the statistics of the answers.
        prompts: Number of prompts.
        tokens_per_second: Speed of the median prompt after the first token, over
            repeats.
        first_token: Seconds to the first token of the median prompt, over repeats.
        of_plain: Speed divided by plain decoding's: the median over prompts.
        worst, worst_prompt: The lowest of these ratios, and the prompt.
        of_best_width: The median ratio to the best fixed block size of this class.
        tokens_per_round: Over all answers; None for other engines than ours.
        acceptance: Share of drafts kept, by position in the block.
        drafted_at: Number of drafts, by position in the block.
        rounds_by_width: Number of rounds of each width.
        lookup_rounds: Number of rounds drafted by lookup.
        peak: Most bytes that MLX held.
        compared: Whether the texts were compared with plain decoding's.
        differences: (name of the prompt, difference) for each prompt that differs.
        loops: Number of prompts with an answer that repeats itself.
        short: Number of prompts with an answer of fewer than SHORT tokens.
        counted: As in Answer.
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
        """Whether the contender is dflash-mlx with drafts."""
        return self.contender == "auto" or self.contender.isdigit()


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """A row per class, temperature, context and contender, in the order of the runs."""
    cells = group_by(runs, lambda run: (run.prompt.kind, run.temp, run.context))
    rows = []
    for cell in cells.values():
        by_name = group_by(cell, lambda run: run.contender)
        found = [row_of(of_contender) for of_contender in by_name.values()]
        for row in found:
            add_ratios(row, by_name)
        rows += found
    return rows


def group_by(items: Iterable, key) -> dict[Hashable, list]:
    """Items by key; keys in the order of their first item."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def row_of(runs: Sequence[Run]) -> Row:
    """The row of one contender's runs, without ratios to other contenders."""
    answers = [answer for run in runs for answer in run.answers]
    stats = pool_stats([a.stats for a in answers if a.stats is not None])
    first, peaks = runs[0], [a.peak for a in answers if a.peak is not None]
    texts = [run.answers[0].tokens for run in runs]
    row = Row(
        first.prompt.kind,
        first.contender,
        first.temp,
        first.context,
        engine_label(first.contender, stats),
        len(runs),
        spread_over_repeats(runs, lambda answer: answer.speed),
        spread_over_repeats(runs, lambda answer: answer.first_token),
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
        row.rounds_by_width = count_widths(answers)
        row.lookup_rounds = sum(answer.stats.lookup_rounds for answer in answers)
    return row


def pool_stats(stats: Sequence[Stats]) -> Stats | None:
    """The counters of all answers together.

    Engine and reason are those of one answer: with a drafted round rather than without,
    and dflash rather than lookup rather than plain.
    """
    if not stats:
        return None
    rank = ("plain", "lookup", "dflash").index
    chosen = max(stats, key=lambda each: (has_drafts(each), rank(each.engine)))
    total = Stats(chosen.engine, chosen.reason)
    for each in stats:
        total.add(each)
    return total


def has_drafts(stats: Stats) -> bool:
    """Whether any round was drafted."""
    return stats.drafted > 0


def engine_label(contender: str, stats: Stats | None) -> str:
    """The engine that answered; a drafting engine is named only if it drafted a round.

    Args:
        contender: Name of the contender.
        stats: Counters of its answers; None for other engines than ours.
    """
    if stats is None or contender == PLAIN:
        return contender
    if not has_drafts(stats):
        reason = stats.reason if stats.engine == "plain" else ""
        return f"plain ({reason or 'parked'})"
    return f"{stats.engine} {contender}"


def count_widths(answers: Iterable[Answer]) -> dict[int, int]:
    """Number of rounds of each width."""
    counts = Counter()
    for answer in answers:
        for width, (rounds, _) in answer.stats.seconds_by_width.items():
            counts[width] += rounds
    return dict(sorted(counts.items()))


def spread_over_repeats(
    runs: Sequence[Run], figure: Callable[[Answer], float | None]
) -> Spread | None:
    """The spread over repeats of a figure's median over prompts."""
    medians = []
    for answers in zip(*(run.answers for run in runs), strict=True):
        values = [value for value in map(figure, answers) if value is not None]
        if values:
            medians.append(median(values))
    return Spread.of(medians)


def median_speed(run: Run) -> float | None:
    """The median speed over repeats; None if no answer has a speed."""
    speeds = [answer.speed for answer in run.answers if answer.speed is not None]
    return median(speeds) if speeds else None


def speed_ratios(runs: Sequence[Run], bases: Sequence[Run]) -> list[tuple[float, str]]:
    """(ratio to the base's speed, name of the prompt) for prompts with both speeds."""
    both = [
        (median_speed(run), median_speed(base), run.prompt.name)
        for run, base in zip(runs, bases, strict=True)
    ]
    return [(speed / base, name) for speed, base, name in both if speed and base]


def add_ratios(row: Row, by_name: dict[str, list[Run]]) -> None:
    """Add a row's ratios to plain decoding and to the best fixed block size."""
    runs = by_name[row.contender]
    if PLAIN in by_name and row.contender != PLAIN:
        found = speed_ratios(runs, by_name[PLAIN])
        if found:
            row.of_plain = median(ratio for ratio, _ in found)
            row.worst, row.worst_prompt = min(found)
    fixed = [runs for name, runs in by_name.items() if name.isdigit()]
    if row.contender == "auto" and fixed:
        to_each = [[ratio for ratio, _ in speed_ratios(runs, base)] for base in fixed]
        row.of_best_width = min(
            (median(each) for each in to_each if each), default=None
        )


def repeats_itself(tokens: Sequence[int]) -> bool:
    """Whether a text repeats itself, which makes it unusually easy to draft."""
    tail = tokens[-LOOP_TAIL:]
    if len(tail) < LOOP_TAIL:
        return False
    if any(tail[p:] == tail[:-p] for p in range(1, LOOP_PERIOD + 1)):
        return True
    sequences = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return len(set(sequences)) < MIN_DISTINCT * len(sequences)


def drift(runs: Sequence[Run]) -> float | None:
    """The change of plain decoding's speed from the first repeat to the last.

    Returns:
        The median over prompts; 0.1 is 10% faster. None with a single repeat.
    """
    plain = [run for run in runs if run.contender == PLAIN and len(run.answers) > 1]
    ends = [(run.answers[0].speed, run.answers[-1].speed) for run in plain]
    changes = [last / first - 1 for first, last in ends if first and last]
    return median(changes) if changes else None


def drift_warning(change: float | None) -> list[str]:
    """A warning if plain decoding's speed changed by more than MAX_DRIFT."""
    if change is None or abs(change) <= MAX_DRIFT:
        return []
    return [
        f"the speed of plain decoding changed by {change:+.0%} between the first and "
        "the last repeat; the machine may be throttled or busy with other programs"
    ]


def worst_row(rows: Sequence[Row], contender: str) -> Row | None:
    """The row with a contender's lowest ratio to plain decoding."""
    found = [r for r in rows if r.contender == contender and r.of_plain is not None]
    return min(found, key=lambda row: row.of_plain, default=None)
