"""mlx-lm is a moving part: the table of architectures holds for what is installed."""

import pytest

from benchmarks.examine import (
    README,
    as_markdown,
    examine_all,
    with_section,
)
from dflash_mlx.hub import architectures
from tests.equipment.architectures import names


def test_the_table_covers_every_architecture():
    _, found = architectures.read()
    assert len(found) > 120
    assert sum(family.verdict == architectures.DRAFTS for family in found) > 100
    assert all(f.reason for f in found if f.verdict != architectures.DRAFTS)


def test_the_readme_shows_the_table():
    _, found = architectures.read()
    page = README.read_text()
    assert with_section(page, as_markdown(found)) == page


def test_the_section_is_replaced_and_nothing_else():
    marks = "<!-- families -->{}<!-- end of families -->"
    for inside in ("\n", "\nold\n"):
        page = "before " + marks.format(inside) + " after"
        wanted = "before " + marks.format("\nnew\n") + " after"
        assert with_section(page, "new") == wanted
    with pytest.raises(ValueError):
        with_section("a page without the marks", "new")


@pytest.mark.full("targets")
def test_the_table_is_what_an_examination_finds():
    """Make it anew with `python -m benchmarks.examine` after an update."""
    _, table = architectures.read()
    wanted = {f.name: (f.verdict, f.caches, f.exact, f.reason) for f in table}
    for found in examine_all(names()):
        row = wanted.pop(found.name)
        assert (found.verdict, found.caches, found.exact, found.reason) == row
    assert not wanted
