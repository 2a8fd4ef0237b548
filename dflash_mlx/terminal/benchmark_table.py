"""A benchmark's rows as a table, and the summary below it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ..bench.contenders import PLAIN
from ..bench.results import Row, worst_row


def print_rows(rows: Sequence[Row], warnings: Sequence[str], title: str) -> None:
    """Print the table, the summary and the warnings."""
    width = None if sys.stdout.isatty() else 170
    console = Console(width=width, markup=False)
    console.print(title, highlight=False)
    console.print(table_of(rows))
    for line in summary(rows):
        console.print(line, highlight=False, soft_wrap=True)
    for line in warnings:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)


def table_of(rows: Sequence[Row]) -> Table:
    """One table row for each class and contender.

    Temperature and context are columns only where there are several.
    """
    optional = {
        "T": (len({row.temp for row in rows}) > 1, lambda row: f"{row.temp:g}"),
        "context": (len({row.context for row in rows}) > 1, lambda row: row.context),
    }
    extra = {name: cell for name, (several, cell) in optional.items() if several}
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("class", *extra):
        table.add_column(name, no_wrap=True)
    table.add_column("engine")
    for name in FIGURES:
        table.add_column(name, justify="right")
    table.add_column("text")
    for i, row in enumerate(rows):
        ends = i + 1 == len(rows) or section_of(rows[i + 1]) != section_of(row)
        table.add_row(
            row.kind,
            *(str(cell(row)) for cell in extra.values()),
            row.engine,
            *(figure(row) for figure in FIGURES.values()),
            remarks(row),
            end_section=ends,
        )
    return table


def section_of(row: Row) -> tuple:
    """What rows of the same section share."""
    return row.kind, row.temp, row.context


def spread(row: Row) -> str:
    """The lowest and highest speed over repeats."""
    speed = row.tokens_per_second
    return f"{speed.least:.1f}-{speed.most:.1f}" if speed else ""


def acceptance(row: Row) -> str:
    """Acceptance of the first four drafts, in percent."""
    return " ".join(f"{share * 100:.0f}" for share in row.acceptance[:4])


def widths(row: Row) -> str:
    """The three most frequent widths with their share of rounds."""
    total = sum(row.rounds_by_width.values())
    by_share = sorted(row.rounds_by_width.items(), key=lambda item: -item[1])
    return " ".join(f"{width}:{n / total:.0%}" for width, n in by_share[:3])


def number(value: float | None, digits: int) -> str:
    """A number; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


FIGURES = {
    "tokens/s": lambda r: number(r.tokens_per_second and r.tokens_per_second.median, 1),
    "range": spread,
    "vs plain": lambda r: number(r.of_plain, 2),
    "worst": lambda r: number(r.worst, 2),
    "first token ms": lambda r: number(r.first_token.median * 1e3, 0),
    "tokens/round": lambda r: number(r.tokens_per_round, 2),
    "drafts kept %": acceptance,
    "width:rounds": widths,
    "peak MB": lambda r: number(r.peak and r.peak / 1e6, 0),
}


def remarks(row: Row) -> str:
    """Whether the text equals plain decoding's, and what limits the figures."""
    words = []
    if row.compared and (row.differences or row.contender != PLAIN):
        words.append(comparison(row))
    if row.lookup_rounds:
        share = row.lookup_rounds / sum(row.rounds_by_width.values())
        words.append(f"lookup in {share:.0%} of rounds")
    if row.loops:
        words.append(f"{row.loops} of {row.prompts} repeat themselves")
    if row.short:
        words.append(f"{row.short} of {row.prompts} too short")
    if row.counted == "tokenizer":
        words.append("tokens counted here")
    return ", ".join(words)


def comparison(row: Row) -> str:
    """ "same", or the first difference from plain decoding; near ties come last."""
    if not row.differences:
        return "same"
    _, found = min(row.differences, key=lambda pair: pair[1].near_tie)
    what = "near tie" if found.near_tie else "DIFFERS"
    margin = "" if found.margin is None else f", margin {found.margin:.2g}"
    count = f"{len(row.differences)} of {row.prompts} prompts"
    return f"{what} at token {found.at}{margin} ({count})"


def summary(rows: Sequence[Row]) -> list[str]:
    """The slowest class of each drafting contender, and whether a round was drafted."""
    lines = []
    names = dict.fromkeys(row.contender for row in rows if row.speculates)
    for name in names:
        if worst := worst_row(rows, name):
            drafted = "" if worst.drafted_at else ", without a drafted round"
            lines.append(
                f"The slowest class with --block-sizes {name} is {worst.kind}: "
                f"{worst.of_plain:.2f} times plain decoding{drafted}."
            )
    against_fixed = [row for row in rows if row.of_best_width is not None]
    if against_fixed:
        row = min(against_fixed, key=lambda row: row.of_best_width)
        lines.append(
            "The slowest class of auto against the best fixed block size is "
            f"{row.kind}: {row.of_best_width:.2f} times its speed."
        )
    if any(row.speculates for row in rows) and not any(r.drafted_at for r in rows):
        lines.append("No round was drafted, so all figures show plain decoding.")
    return lines
