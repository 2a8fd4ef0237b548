"""Tables and images as rows: no text is lost."""

import re

import pytest

from tests.equipment.screen import stream_markdown


def test_a_table_without_room_is_shown_as_source():
    head = "|" + "|".join(f"col{i}" for i in range(12)) + "|"
    rows = f"{head}\n|{'---|' * 12}\n|{'v|' * 12}\n"
    text = "".join(stream_markdown(f"x\n\n{rows}\ny", 40).rows())
    assert head in text and "v|" * 12 in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_cell_of_a_table_is_cut(width):
    cells = "日本語" * 10, "`https://example.com/a/very/long/address?x=1`", "--kv-bits"
    text = "| one | two | three |\n|---|---|---|\n|" + "|".join(cells) + "|\n"
    shown = "".join("".join(stream_markdown(text, width).rows()).split())
    assert "…" not in shown
    for cell in cells:
        assert sorted(set(cell) - set(shown)) in ([], ["`"])
    assert shown.count("日") == 10 and shown.count("語") == 10


def test_a_bar_in_code_does_not_end_a_cell():
    head = "| op | meaning | example |\n|---|---|---|\n"
    text = head + "| `||` | logical or | `a || b` |\n| `|` | or | x |\n| 1 | 2 | 3 |\n"
    rows = [row.split() for row in stream_markdown(text).rows()]
    assert rows[-3:] == [
        ["||", "logical", "or", "a", "||", "b"],
        ["|", "or", "x"],
        ["1", "2", "3"],
    ]


def test_a_row_with_more_cells_than_the_head_is_shown_as_source():
    text = "| a | b |\n|---|---|\n| 1 | 2 | three | four |\n"
    assert stream_markdown(text).rows() == text.rstrip("\n").split("\n")


def test_an_image_stays_in_its_place():
    text = "See ![a cat](http://x/y.png) here.\n\n- so ![](z.png)"
    assert stream_markdown(text).rows() == [
        "See a cat (http://x/y.png) here.",
        "",
        " • so image (z.png)",
    ]


def test_numbers_of_a_list_keep_their_dot():
    text = "\n".join(f"{n}. item {n} with more words than fit" for n in range(1, 12))
    rows = stream_markdown(text, 20, 40).rows()
    assert rows[:2] == [" 1. item 1 with", "    more words"] or rows[:2] == [
        "  1. item 1 with",
        "     more words",
    ]
    assert any(row.strip().startswith("11. item 11") for row in rows)


def test_inline_code_has_no_background():
    screen = stream_markdown("see `x = 1` here")
    assert "\x1b[" in screen.written
    assert not re.search(r"\x1b\[[0-9;]*(?<![0-9])4[0-9](;|m)", screen.written)


def test_code_in_a_list_shows_its_language():
    rows = stream_markdown("- a\n\n  ```sh\n  ls\n  ```\n").rows()
    assert [row.strip() for row in rows] == ["• a", "sh", "ls"]
