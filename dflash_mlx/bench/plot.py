"""A benchmark's rows as a picture: speed by class, acceptance by position.

matplotlib is optional, and imported when a picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import MissingPackageError, OptionError
from .data_sets import INSTALL
from .results import Row

# A position that was drafted less often has no point.
FEW = 8


def check(file: Path) -> None:
    """Raise what `draw` would, before anything was measured.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OptionError: The folder does not exist, or the name ends otherwise.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingPackageError(
            "The package matplotlib is missing.", INSTALL
        ) from None
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OptionError(f"--plot must end in .png, .svg or .pdf, but is {file}.")
    if not file.parent.is_dir():
        raise OptionError(f"--plot: there is no folder {file.parent}.")


def draw(rows: Sequence[Row], title: str, file: Path) -> None:
    """Draw both panels into a file.

    Args:
        rows: From results.rows_of; all temperatures and contexts get bars of their own.
        title: Above both.
        file: .png, .svg or .pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    speeds(left, rows)
    acceptance(right, rows)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file)


def group_of(row: Row, rows: Sequence[Row]) -> str:
    """A row's class, with what else tells its group from others."""
    words = [row.kind]
    if len({other.temp for other in rows}) > 1:
        words.append(f"T {row.temp:g}")
    if len({other.context for other in rows}) > 1:
        words.append(f"{row.context} ctx")
    return "\n".join(words)


def speeds(axes, rows: Sequence[Row]) -> None:
    """Bars: median speed of plain's in each class; whiskers to the worst prompt."""
    shown = [row for row in rows if row.of_plain is not None]
    groups = list(dict.fromkeys(group_of(row, rows) for row in shown))
    names = list(dict.fromkeys(row.contender for row in shown))
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        mine = [row for row in shown if row.contender == name]
        places = [
            groups.index(group_of(row, rows)) + (i - (len(names) - 1) / 2) * width
            for row in mine
        ]
        heights = [row.of_plain for row in mine]
        below = [row.of_plain - row.worst for row in mine]
        bars = axes.bar(places, heights, width * 0.92, label=label(mine))
        axes.errorbar(
            places, heights, [below, [0] * len(mine)], fmt="none", ecolor="0.3", lw=1
        )
        if len(names) <= 2:
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.axhline(1, color="0.2", lw=1, ls="--")
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel("speed of plain decoding (whisker: worst prompt)")
    axes.set_title("Speed by class")
    if shown:
        axes.legend(fontsize=8)


def label(rows: Sequence[Row]) -> str:
    """A contender's name in the legend: by the engines that really answered."""
    return " / ".join(dict.fromkeys(row.engine for row in rows))


def acceptance(axes, rows: Sequence[Row]) -> None:
    """Lines: how often the draft of each position was kept, of one contender.

    The widest fixed width is shown where there is one: a free choice drafts far where
    it expects to be right, so its deep positions look better than they are.
    """
    drafting = [row for row in rows if row.speculates and row.acceptance]
    widths = [int(row.contender) for row in drafting if row.contender.isdigit()]
    chosen = str(max(widths)) if widths else "auto"
    for i, row in enumerate(row for row in drafting if row.contender == chosen):
        told = zip(row.acceptance, row.drafted_at, strict=True)
        shares = [share if of >= FEW else math.nan for share, of in told]
        name = group_of(row, rows).replace("\n", ", ")
        style = ("-", "--", ":", "-.")[i % 4]  # of lines that lie on each other
        places = range(1, len(shares) + 1)
        axes.plot(places, shares, style, marker="o", ms=3, label=name)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("position in the block")
    axes.set_ylabel("share of drafts kept")
    axes.set_title(f"Acceptance by position (width {chosen})")
    if drafting:
        axes.legend(fontsize=8)
