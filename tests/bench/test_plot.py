"""The plot of a benchmark: both panels, and the checks before a measurement."""

import math
import sys
from dataclasses import replace

import pytest

from dflash_mlx.bench import plot
from dflash_mlx.errors import MissingPackageError


def test_a_plot_without_matplotlib_is_refused_at_once(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"dflash-mlx\[benchmark\]"):
        plot.check(tmp_path / "speed.png")


@pytest.mark.slow
def test_the_plot_has_both_panels(rows, tmp_path):
    figures = pytest.importorskip("matplotlib.figure")
    file = tmp_path / "speed.png"
    plot.check(file)
    plot.draw(rows, "tiny", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    left, right = figures.Figure().subplots(1, 2)
    plot.plot_speeds(left, rows)
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    engines = dict.fromkeys(row.engine for row in rows if row.contender == "auto")
    assert labels == [" / ".join(engines), "dflash 4", "mlx-lm"]
    heights = sorted(bar.get_height() for bar in left.patches)
    assert heights == pytest.approx(sorted(r.of_plain for r in rows if r.of_plain))
    plot.plot_acceptance(right, rows)
    fixed = [row for row in rows if row.contender == "4"]
    drawn = [list(line.get_ydata()) for line in right.lines]
    assert drawn == [row.acceptance for row in fixed] and len(drawn) == 2
    assert all(n >= plot.MIN_DRAFTS for row in fixed for n in row.drafted_at)
    few = figures.Figure().subplots()
    plot.plot_acceptance(few, [replace(fixed[0], drafted_at=[9, 8, 7])])
    assert [math.isnan(y) for y in few.lines[0].get_ydata()] == [False, False, True]
