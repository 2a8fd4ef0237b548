"""Streamed Markdown on an emulated terminal: what stays is what rich would print."""

import random
import re

import pytest

from dflash_mlx.terminal.screen.blocks import Page
from dflash_mlx.terminal.screen.code_block import CONTEXT, Code
from dflash_mlx.terminal.screen.markdown import MarkdownStream, closed, window
from dflash_mlx.terminal.screen.region import Cleaner, visible
from tests.equipment.screen import Screen, collapsed

SAMPLE = """# A title

Some **bold** and *italic* with `code`, a [link](https://example.com/x) and
日本語テキスト that goes on for a while 😀 to the end of the row and beyond it.
Here are:
- one item
- two with **bold**
  - nested, with more words than a narrow terminal has room for in one row
- three

1. first
2. second

   with a paragraph
3. third

> a quote that says
> something

```python
def f(x):
    '''Doc.'''

    return x  # 日本
```

| a | b |
|---|---|
| 1 | two words |
| 3 | 日本語 |

---

Generics <T>, a < b and [x]: y.

[not a definition]: https://example.com

## Sub

~~~
tilde ``` inside
~~~

````markdown
```python
nested
```
````

The end, with e\u0301 combining.
"""
WORDS = "the quick brown fox jumps over lazy dogs and 42 other animals".split()


def stream(text, width=80, height=10, step=1, **options):
    screen = Screen(width, height)
    markdown = MarkdownStream(screen.console(**options), refresh=0)
    for i in range(0, len(text), step):
        markdown.write(text[i : i + step])
        assert len(markdown._region.shown) < height
    markdown.close()
    return screen


def whole(text, width=80, height=10):
    """rich's own rendering, at once; the last column is free."""
    screen = Screen(width, height)
    screen.console(width=width - 1).print(Page(text))
    return screen


def prose(n, seed=0):
    pick = random.Random(seed)
    return " ".join(pick.choice(WORDS) for _ in range(n))


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_what_stays_is_richs_rendering(width, step):
    screen = stream(SAMPLE, width, step=step)
    assert collapsed(screen.rows()) == collapsed(whole(SAMPLE, width).rows())
    assert not screen.controls()
    assert screen.screen.cursor.x == 0


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    "text",
    [
        prose(400),
        prose(150) + " **" + prose(60) + "** " + prose(200),
        "日本語の文章はとても長いです。" * 80,
        "> " + prose(300),
        "\n".join(f"- item {i} {prose(12, i)}" for i in range(60)),
        "| a | b |\n|---|---|\n" + "".join(f"| {i} | {i * i} |\n" for i in range(40)),
        "* a\n  ```\n" + "".join(f"  line {i}\n" for i in range(40)) + "  ```\n* b",
    ],
    ids="prose bold wide quote list table nested".split(),
)
def test_blocks_longer_than_the_screen(text, width):
    screen = stream(text, width, step=3)
    assert collapsed(screen.rows()) == collapsed(whole(text, width).rows())


@pytest.mark.parametrize("length", range(34, 42))
def test_a_full_row_may_end_in_a_combining_mark(length):
    text = "x" * (length - 2) + " e\u0301 `" + "words and " * 9 + "` end"
    rows = stream(text, 40).rows()
    assert rows == whole(text, 40).rows()


@pytest.mark.parametrize("number", ["1", "{}"])
def test_a_long_list_counts_on_whatever_numbers_were_written(number):
    text = "".join(f"{number.format(i)}. item {i}\n" for i in range(1, 25))
    rows = [row.split() for row in stream(text).rows()]
    assert rows == [[str(i), "item", str(i)] for i in range(1, 25)]


@pytest.mark.parametrize("color", [None, "256"])
def test_code_is_what_a_copy_gives(color):
    code = "".join(
        f"def f{i}(x):\n\treturn {i}  # {'long ' * i}\n\n" for i in range(30)
    )
    wanted = code.expandtabs(4).rstrip("\n").split("\n")
    text = f"```python\n{code}```\nafter"
    screen = stream(text, 300, color_system=color)
    assert screen.rows() == [*(line.rstrip() for line in wanted), "", "after"]
    narrow = stream(text, 40, step=5, color_system=color)
    # The terminal wraps the lines: no line end was written inside one.
    longest = max(wanted, key=len)
    assert color or longest in narrow.written
    assert "".join(narrow.rows()).replace(" ", "") == "".join(
        [*wanted, "after"]
    ).replace(" ", "")


@pytest.mark.parametrize(
    "text, rows",
    [
        ("```py\nx = 1", ["x = 1"]),
        ("```\n\n\na\n\n\n", ["", "", "a"]),
        ("a\n```\n``\nb\n``` ", ["a", "", "``", "b"]),
        ("a\r\n\r\n- b\r\n- c\r\n", ["a", "", " • b", " • c"]),
        ("one\rtwo", ["one", "two"]),
        ("", [""]),
        ("\n\n", [""]),
        ("para\n---\n", ["para"]),
        ("    indented\n\nx", ["indented", "", "x"]),
        ("![cat](http://x/y.png)", ["cat (http://x/y.png)"]),
        ("<div>\nkept\n</div>", ["<div>", "kept", "</div>"]),
        ("9. a\n10. b", ["  9 a", " 10 b"]),
        ("  ```\n    a\n  ```\nb", ["  a", "", "b"]),
        ("- a\n\n```\nx\n```\n- b", [" • a", "", "x", "", " • b"]),
    ],
)
def test_corners(text, rows):
    for step in (1, 2, 100):
        got = stream(text, step=step).rows()
        assert [row.rstrip() for row in got] == rows, step


def test_a_table_without_room_stays_as_it_was_written():
    head = "|" + "|".join(f"col{i}" for i in range(12)) + "|"
    rows = f"{head}\n|{'---|' * 12}\n|{'v|' * 12}\n"
    text = "".join(stream(f"x\n\n{rows}\ny", 40).rows())
    assert head in text and "v|" * 12 in text


def test_control_characters_never_get_through():
    evil = (
        "a\x1b[2Jb \x1b]0;title\x07 \x9b31m \x08\x7f \u202eabc\n\n```\n\x1b[31mx\n```\n"
    )
    for step in (1, 100):
        screen = stream(evil, step=step)
        assert not screen.controls()
        text = "\n".join(screen.rows())
        assert "a␛[2Jb" in text and "␛[31mx" in text and "\u202e" not in text
    assert visible("a\tb\r\nc\rd\x00") == "a\tb\nc\nd␀"
    clean = Cleaner()
    assert [clean.push("a\r"), clean.push("\nb\r"), clean.close()] == ["a", "\nb", "\n"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prose", "code", "list", "bold"])
def test_bytes_written_grow_with_the_text(kind):
    def text(n):
        if kind == "code":
            return "```python\n" + "x = compute(1, 2)\n" * n + "```\n"
        if kind == "list":
            return "".join(f"- {prose(5, i)}\n" for i in range(n))
        mark = "**" if kind == "bold" else ""
        return "\n\n".join(f"{mark}{prose(40, i)}{mark}" for i in range(n // 8))

    def written(n):
        one = text(n)
        screen = stream(one, 80, 24, step=12)
        return len(screen.written) / len(one)

    # Bold rows are written anew while they grow: some rows' worth a piece, no more.
    assert written(96) < (30 if kind == "bold" else 12)
    assert written(96) < 1.3 * written(48)


@pytest.mark.parametrize("widths", [(80, 40), (40, 80)])
@pytest.mark.parametrize("at", range(20, 380, 40))
def test_a_resize_loses_and_repeats_nothing(widths, at):
    lines = [f"{i:03d}words" for i in range(24)]
    listed = [f"{i:03d}items" for i in range(24, 30)]
    text = " ".join(lines) + "\n\n" + "".join(f"- {w}\n" for w in listed)
    text += "\n```\n" + "".join(f"{i:03d}code_\n" for i in range(30, 40)) + "```\n"
    # The emulator has room for both widths: resizing it would cut its rows.
    screen = Screen(80, 24)
    console = screen.console(width=widths[0])
    markdown = MarkdownStream(console, refresh=0)
    for i, piece in enumerate(text):
        if i == at:
            console.size = (widths[1], 24)
        markdown.write(piece)
    markdown.close()
    seen = "".join("".join(screen.rows()).split()).replace("•", "").replace("-", "")
    wanted = text.replace("- ", "").replace("```", "").split()
    assert seen == "".join(wanted)


def test_a_lower_screen_leaves_what_is_shown():
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


def test_paints_wait_for_the_clock():
    screen, now = Screen(), [0.0]
    markdown = MarkdownStream(screen.console(), refresh=0.5, clock=lambda: now[0])
    markdown.write("a")
    markdown.write("b")
    assert screen.rows() == ["a"]
    now[0] = 1.0
    markdown.write("c")
    assert screen.rows() == ["abc"]
    markdown.write("d")
    markdown.close()
    assert screen.rows() == ["abcd"]


def test_a_window_moves_by_half_a_screen():
    rows = [str(i) for i in range(40)]
    starts = [int(window(rows[:n], 10)[0]) for n in range(1, 41)]
    assert starts[:10] == [0] * 10 and sorted(set(starts)) == list(range(0, 35, 5))
    assert all(window(rows[:n], 10)[-1] == str(n - 1) for n in range(1, 41))


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_cell_of_a_table_is_cut(width):
    cells = "日本語" * 10, "`https://example.com/a/very/long/address?x=1`", "--kv-bits"
    text = "| one | two | three |\n|---|---|---|\n|" + "|".join(cells) + "|\n"
    said = "".join("".join(stream(text, width).rows()).split())
    assert "…" not in said
    for cell in cells:
        assert sorted(set(cell) - set(said)) in ([], ["`"])
    assert said.count("日") == 10 and said.count("語") == 10


def test_a_bar_in_code_ends_no_cell():
    head = "| op | meaning | example |\n|---|---|---|\n"
    text = head + "| `||` | logical or | `a || b` |\n| `|` | or | x |\n| 1 | 2 | 3 |\n"
    rows = [row.split() for row in stream(text).rows()]
    assert rows[-3:] == [
        ["||", "logical", "or", "a", "||", "b"],
        ["|", "or", "x"],
        ["1", "2", "3"],
    ]


def test_a_row_with_more_cells_than_the_head_is_given_as_written():
    text = "| a | b |\n|---|---|\n| 1 | 2 | three | four |\n"
    assert stream(text).rows() == text.rstrip("\n").split("\n")


def test_an_image_stands_where_it_was_written():
    text = "See ![a cat](http://x/y.png) here.\n\n- so ![](z.png)"
    assert stream(text).rows() == [
        "See a cat (http://x/y.png) here.",
        "",
        " • so image (z.png)",
    ]


def resized(*pieces):
    """What a screen shows of pieces, made narrower where a piece is None."""
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


def test_a_resize_within_code_leaves_code_code():
    nested = (
        "- a\n  ```\n  x\n",
        "  y",
        None,
        "\n  # z\n  ```\n- b\n\nafter **bold**\n",
    )
    assert resized(*nested) == ["• a", "x", "y", "# z", "• b", "after bold"]
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
    assert resized(*begun) == ["Look:", "# hm", "x = **a**", "b"]
    plain = ("```\na\n", "\nb", None, "\nc\n```\n", "**d**")
    assert resized(*plain) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("rest", "rows"),
    [("c\nd\n```\n", ["a", "", "b", "c", "d"]), ("\nd\n```\n", ["a", "", "b", "d"])],
)
def test_a_resize_in_code_gives_no_blank_row_of_its_own(rest, rows):
    screen = Screen(80, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    markdown.write("```\na\n\nb")
    console.size = (70, 20)
    markdown.write(rest)
    markdown.close()
    assert screen.rows() == rows


def test_where_no_markup_of_a_paragraph_is_open():
    assert closed("**a** b **c") == 8
    assert closed("a [b](c) [d") == 9 and closed("a [b](c) d") == 10
    assert closed("`a` b") == 5


def test_a_resize_within_a_table_goes_on_with_its_head():
    head = "| a | b |\n|---|---|\n"
    rows = resized(head + "| 1 | 2 |\n| 3", None, " | 4 |\n| 5 | 6 |\n")
    assert [row.split() for row in rows if row[0] in "a135"][-3:] == [
        ["a", "b"],
        ["3", "4"],
        ["5", "6"],
    ]


def test_an_indented_fence_inside_a_fence_is_code():
    text = "```\na\n    ```\nb\n```\nafter"
    assert stream(text).rows() == ["a", "    ```", "b", "", "after"]


def test_a_string_over_a_blank_line_keeps_its_colour():
    screen = stream('```python\nx = """one\n\ntwo"""\n```', step=1)
    colours = [
        screen.written.rpartition(word)[0].rpartition("\x1b[")[2]
        for word in ("one", "two")
    ]
    assert colours[0] == colours[1] and colours[0].startswith("3")


def test_few_lines_above_are_read_again_for_colours():
    screen = Screen(80, 10)
    markdown = MarkdownStream(screen.console(), refresh=0)
    markdown.write("```python\n")
    for i in range(4 * CONTEXT):
        markdown.write(f"x{i} = {i}\n")
        assert isinstance(markdown._code, Code)
        assert len(markdown._code._above) <= CONTEXT


def test_a_setext_underline_that_may_be_a_list_repaints_nothing():
    screen = Screen()
    markdown = MarkdownStream(screen.console(), refresh=0)
    markdown.write("para\n-")
    assert re.findall(r"\x1b\[[\d;]+m", screen.written) == []
    assert screen.rows() == ["para"]


def test_paints_take_a_tenth_of_the_time_at_most(monkeypatch):
    now, painted = [0.0], []

    def clock():
        now[0] += 0.05  # each paint takes as long
        return now[0]

    markdown = MarkdownStream(Screen().console(), clock=clock)
    monkeypatch.setattr(markdown, "_paint", lambda: painted.append(now[0]))
    for _ in range(400):
        markdown.write("word ")
    assert 0.05 * len(painted) < 0.11 * now[0]


def test_a_split_paragraph_and_a_resize_leave_no_blank_rows():
    assert stream("a\n\n" + prose(400)).rows().count("") == 1
    screen = Screen(80, 20)
    console = screen.console()
    markdown = MarkdownStream(console, refresh=0)
    markdown.write("a\n\nb\nc")
    console.size = (70, 20)
    markdown.write(" d\n\ne")
    markdown.close()
    assert screen.rows() == ["a", "", "b", "c", "d", "", "e"]


def test_a_table_taller_than_the_screen_is_whole_after_a_resize():
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


def test_what_is_indented_below_an_item_stays_below_it():
    text = "".join(f"1. item\n\n   text{i}\n\n" for i in range(12))
    rows = stream(text, height=8).rows()
    assert sum("   text" in row for row in rows) == 12
    assert [row.split()[0] for row in rows if "item" in row] == [
        str(i) for i in range(1, 13)
    ]
