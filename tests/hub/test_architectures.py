"""The table of architectures agrees with the installed mlx-lm and the documentation."""

import pytest

from benchmarks.examine import (
    PAGE,
    as_markdown,
    examine_all,
    with_table,
)
from dflash_mlx.hub import architectures
from tests.equipment.architectures import names


def test_the_table_covers_every_architecture():
    _, found = architectures.read()
    assert len(found) > 120
    assert sum(family.verdict == architectures.DRAFTS for family in found) > 100
    assert all(f.reason for f in found if f.verdict != architectures.DRAFTS)


def test_one_family_is_found_alone():
    _, found = architectures.read()
    assert [architectures.find(family.name) for family in found] == found
    assert architectures.find("no_family") is None


def test_the_documentation_shows_the_table():
    _, found = architectures.read()
    page = PAGE.read_text()
    assert with_table(page, as_markdown(found)) == page


def test_only_the_text_between_the_marks_is_replaced():
    marks = "<!-- families -->{}<!-- end of families -->"
    for inside in ("\n", "\nold\n"):
        page = "before " + marks.format(inside) + " after"
        wanted = "before " + marks.format("\nnew\n") + " after"
        assert with_table(page, "new") == wanted
    with pytest.raises(ValueError):
        with_table("a page without the marks", "new")


@pytest.mark.full("targets")
def test_an_examination_finds_what_the_table_says():
    """After an update of mlx-lm, run `python -m benchmarks.examine`."""
    _, table = architectures.read()
    wanted = {f.name: (f.verdict, f.caches, f.exact, f.reason) for f in table}
    for found in examine_all(names()):
        row = wanted.pop(found.name)
        assert (found.verdict, found.caches, found.exact, found.reason) == row
    assert not wanted
