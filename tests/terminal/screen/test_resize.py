"""A terminal that is resized while Markdown arrives."""

import pytest

from dflash_mlx.terminal.screen.markdown import MarkdownStream
from tests.equipment.screen import Screen, prose, stream_markdown


def rows_after_resize(*pieces):
    """The rows of a Markdown text in pieces; None makes the screen narrower."""
    screen = Screen(80, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    for piece in pieces:
        if piece is None:
            console.size = (console.width - 10, 20)
        else:
            markdown.write(piece)
    markdown.close()
    return [row.strip() for row in screen.rows() if row.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("widths", [(80, 40), (40, 80)])
@pytest.mark.parametrize("at", range(20, 380, 40))
def test_a_resize_neither_loses_nor_repeats_text(widths, at):
    lines = [f"{i:03d}words" for i in range(24)]
    listed = [f"{i:03d}items" for i in range(24, 30)]
    text = " ".join(lines) + "\n\n" + "".join(f"- {w}\n" for w in listed)
    text += "\n```\n" + "".join(f"{i:03d}code_\n" for i in range(30, 40)) + "```\n"
    # The emulator keeps the larger width, because a resize would cut its rows.
    screen = Screen(80, 24)
    console = screen.console(width=widths[0])
    markdown = MarkdownStream(console, refresh=0)
    for i, piece in enumerate(text):
        if i == at:
            console.size = (widths[1], 24)
        markdown.write(piece)
    markdown.close()
    shown = "".join("".join(screen.rows()).split()).replace("•", "").replace("-", "")
    wanted = text.replace("- ", "").replace("```", "").split()
    assert shown == "".join(wanted)


def test_a_lower_screen_keeps_the_painted_rows():
    screen = Screen(40, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    words = [f"{i:03d}words" for i in range(80)]
    for i, word in enumerate(words):
        if i == 40:
            console.size = (40, 5)
        markdown.write(word + " ")
        assert len(markdown._region.shown) < console.height
    markdown.close()
    assert "".join("".join(screen.rows()).split()) == "".join(words)


def test_code_stays_code_after_a_resize():
    nested = (
        "- a\n  ```\n  x\n",
        "  y",
        None,
        "\n  # z\n  ```\n- b\n\nafter **bold**\n",
    )
    assert rows_after_resize(*nested) == ["• a", "x", "y", "# z", "• b", "after bold"]
    begun = (
        "Look:\n\n",
        "```py",
        None,
        "\n",
        "# hm\n",
        "x = **a**\n",
        "```",
        "\n**b**",
    )
    assert rows_after_resize(*begun) == ["Look:", "py", "# hm", "x = **a**", "b"]
    plain = ("```\na\n", "\nb", None, "\nc\n```\n", "**d**")
    assert rows_after_resize(*plain) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("rest", "rows"),
    [("c\nd\n```\n", ["a", "", "bc", "d"]), ("\nd\n```\n", ["a", "", "b", "d"])],
)
def test_a_resize_in_code_adds_no_blank_row(rest, rows):
    screen = Screen(80, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    markdown.write("```\na\n\nb")
    console.size = (70, 20)
    markdown.write(rest)
    markdown.close()
    assert screen.rows() == rows


def test_a_resize_within_a_table_repeats_its_head():
    """If its rows do not fit any more; else they stay where they are."""
    for wide, repeated in (("x" * 74, True), ("b", False)):
        head = f"| a | {wide} |\n|---|---|\n"
        rows = rows_after_resize(head + "| 1 | 2 |\n| 3", None, " | 4 |\n| 5 | 6 |\n")
        rows = [row.split()[:2] for row in rows if row[0] in "a135"]
        assert rows[-2:] == [["3", "4"], ["5", "6"]]
        assert rows[-3][0] == ("a" if repeated else "1")


def test_a_resize_does_not_break_a_line_of_code():
    line = "print('a line of code')"
    for width in (40, 120):
        screen = Screen(120, 20)
        console = screen.console(width=80)
        markdown = MarkdownStream(console, refresh=0)
        markdown.write("```py\n" + line[:12])
        console.size = (width, 20)
        markdown.write(line[12:] + "\nx = 1\n```\n")
        markdown.close()
        assert screen.rows() == ["py", line, "x = 1"]


@pytest.mark.full("programs")
def test_a_split_paragraph_and_a_resize_add_no_blank_rows():
    assert stream_markdown("a\n\n" + prose(400)).rows().count("") == 1
    screen = Screen(80, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    markdown.write("a\n\nb\nc")
    console.size = (70, 20)
    markdown.write(" d\n\ne")
    markdown.close()
    assert screen.rows() == ["a", "", "b", "c d", "", "e"]


def test_a_table_taller_than_the_screen_is_complete_after_a_resize():
    screen = Screen(80, 8)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    markdown.write("| a | b |\n|---|---|\n")
    for i in range(20):
        markdown.write(f"| r{i}e | x |\n")
        if i == 15:
            console.size = (70, 8)
    markdown.close()
    assert {f"r{i}e" for i in range(20)} <= set(" ".join(screen.rows()).split())
