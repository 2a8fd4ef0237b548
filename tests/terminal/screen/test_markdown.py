"""Streamed Markdown on an emulated terminal; the result equals rich's rendering."""

import re

import pytest

from dflash_mlx.terminal.screen.markdown import (
    MarkdownStream,
    closed_length,
    last_rows,
)
from tests.equipment.screen import (
    Screen,
    collapsed,
    prose,
    render_at_once,
    stream_markdown,
)

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


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_the_result_is_richs_rendering(width, step):
    screen = stream_markdown(SAMPLE, width, step=step)
    assert collapsed(screen.rows()) == collapsed(render_at_once(SAMPLE, width).rows())
    assert not screen.controls()
    assert screen.screen.cursor.x == 0


@pytest.mark.slow
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
    screen = stream_markdown(text, width, step=11)
    assert collapsed(screen.rows()) == collapsed(render_at_once(text, width).rows())


@pytest.mark.parametrize("length", range(34, 42))
def test_a_full_row_may_end_in_a_combining_mark(length):
    text = "x" * (length - 2) + " e\u0301 `" + "words and " * 9 + "` end"
    rows = stream_markdown(text, 40).rows()
    assert rows == render_at_once(text, 40).rows()


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1", "{}"])
def test_a_long_list_is_numbered_whatever_the_source_numbers(number):
    text = "".join(f"{number.format(i)}. item {i}\n" for i in range(1, 25))
    rows = [row.split() for row in stream_markdown(text).rows()]
    assert rows == [[f"{i}.", "item", str(i)] for i in range(1, 25)]


@pytest.mark.parametrize(
    "text, rows",
    [
        ("```py\nx = 1", ["py", "x = 1"]),
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
        ("9. a\n10. b", ["  9. a", " 10. b"]),
        ("  ```\n    a\n  ```\nb", ["  a", "", "b"]),
        ("- a\n\n```\nx\n```\n- b", [" • a", "", "x", "", " • b"]),
    ],
)
def test_corners(text, rows):
    for step in (1, 2, 100):
        got = stream_markdown(text, step=step).rows()
        assert [row.rstrip() for row in got] == rows, step


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
        screen = stream_markdown(one, 80, 24, step=12)
        return len(screen.written) / len(one)

    # Bold rows are rewritten while they grow: a few rows for each piece.
    assert written(96) < (30 if kind == "bold" else 12)
    assert written(96) < 1.3 * written(48)


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


def test_last_rows_scroll_by_half_a_screen():
    rows = [str(i) for i in range(40)]
    starts = [int(last_rows(rows[:n], 10)[0]) for n in range(1, 41)]
    assert starts[:10] == [0] * 10 and sorted(set(starts)) == list(range(0, 35, 5))
    assert all(last_rows(rows[:n], 10)[-1] == str(n - 1) for n in range(1, 41))


def test_closed_length_ends_before_open_markup():
    assert closed_length("**a** b **c") == 8
    assert closed_length("a [b](c) [d") == 9 and closed_length("a [b](c) d") == 10
    assert closed_length("`a` b") == 5


def test_a_setext_underline_that_may_be_a_list_repaints_nothing():
    screen = Screen()
    markdown = MarkdownStream(screen.console(), refresh=0)
    markdown.write("para\n-")
    assert re.findall(r"\x1b\[[\d;]+m", screen.written) == []
    assert screen.rows() == ["para"]


def test_paints_take_at_most_a_tenth_of_the_time(monkeypatch):
    now, painted = [0.0], []

    def clock():
        now[0] += 0.05  # each call, so also each paint, takes as long
        return now[0]

    markdown = MarkdownStream(Screen().console(), clock=clock)
    monkeypatch.setattr(markdown, "_paint", lambda: painted.append(now[0]))
    for _ in range(400):
        markdown.write("word ")
    assert 0.05 * len(painted) < 0.11 * now[0]


@pytest.mark.slow
def test_text_indented_below_a_list_item_stays_below_it():
    text = "".join(f"1. item\n\n   text{i}\n\n" for i in range(12))
    rows = stream_markdown(text, height=8).rows()
    assert sum("   text" in row for row in rows) == 12
    assert [row.split()[0] for row in rows if "item" in row] == [
        f"{i}." for i in range(1, 13)
    ]
