"""Draw the rows of a benchmark: speed by class, and acceptance by position.

matplotlib is optional, so it is imported inside the functions. Does not know how the
figures were measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import MissingPackageError, OptionError
from .data_sets import INSTALL
from .results import Row

# Positions with fewer drafts have no point.
MIN_DRAFTS = 8


def check(file: Path) -> None:
    """Check that `draw` can write the file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        OptionError: The folder does not exist, or the file type is not supported.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingPackageError(
            "The package matplotlib is not installed.", INSTALL
        ) from None
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OptionError(f"--plot must end in .png, .svg or .pdf, but is {file}.")
    if not file.parent.is_dir():
        raise OptionError(
            f"There is no folder {file.parent} for --plot.", "Create it first."
        )


def draw(rows: Sequence[Row], title: str, file: Path) -> None:
    """Draw both panels into a file.

    Args:
        rows: From results.rows_of. Each temperature and context has its own bars.
        title: Title of the figure.
        file: A .png, .svg or .pdf file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    plot_speeds(left, rows)
    plot_acceptance(right, rows)
    figure.suptitle(title, fontsize=11)
    figure.savefig(file)


def group_label(row: Row, rows: Sequence[Row]) -> str:
    """The class of a row, with temperature and context if the rows have several."""
    words = [row.kind]
    if len({other.temp for other in rows}) > 1:
        words.append(f"T {row.temp:g}")
    if len({other.context for other in rows}) > 1:
        words.append(f"{row.context} ctx")
    return "\n".join(words)


def plot_speeds(axes, rows: Sequence[Row]) -> None:
    """Bars of the median ratio to plain decoding, whiskers to the worst prompt."""
    shown = [row for row in rows if row.of_plain is not None]
    groups = list(dict.fromkeys(group_label(row, rows) for row in shown))
    names = list(dict.fromkeys(row.contender for row in shown))
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        own = [row for row in shown if row.contender == name]
        places = [
            groups.index(group_label(row, rows)) + (i - (len(names) - 1) / 2) * width
            for row in own
        ]
        heights = [row.of_plain for row in own]
        below = [row.of_plain - row.worst for row in own]
        bars = axes.bar(places, heights, width * 0.92, label=engine_names(own))
        axes.errorbar(
            places, heights, [below, [0] * len(own)], fmt="none", ecolor="0.3", lw=1
        )
        if len(names) <= 2:
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.axhline(1, color="0.2", lw=1, ls="--")
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel("speed / plain decoding (whisker: worst prompt)")
    axes.set_title("Speed by class")
    if shown:
        axes.legend(fontsize=8)


def engine_names(rows: Sequence[Row]) -> str:
    """The engines that answered for a contender, for the legend."""
    return " / ".join(dict.fromkeys(row.engine for row in rows))


def plot_acceptance(axes, rows: Sequence[Row]) -> None:
    """Lines of the share of drafts kept at each position, for one contender.

    The contender is the largest fixed block size, if there is one: `auto` drafts long
    blocks only where it expects to be right, so its later positions look better.
    """
    drafting = [row for row in rows if row.speculates and row.acceptance]
    widths = [int(row.contender) for row in drafting if row.contender.isdigit()]
    chosen = str(max(widths)) if widths else "auto"
    for i, row in enumerate(row for row in drafting if row.contender == chosen):
        positions = zip(row.acceptance, row.drafted_at, strict=True)
        shares = [share if n >= MIN_DRAFTS else math.nan for share, n in positions]
        name = group_label(row, rows).replace("\n", ", ")
        # Different styles keep lines visible that lie on top of each other.
        style = ("-", "--", ":", "-.")[i % 4]
        places = range(1, len(shares) + 1)
        axes.plot(places, shares, style, marker="o", ms=3, label=name)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("position in the block")
    axes.set_ylabel("share of drafts kept")
    axes.set_title(f"Acceptance by position (width {chosen})")
    if drafting:
        axes.legend(fontsize=8)
