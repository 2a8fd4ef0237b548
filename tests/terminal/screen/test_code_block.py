"""Fenced code: its text is what a copy gives, its colours are those of the block."""

import re

import pytest

from dflash_mlx.terminal.screen.code_block import CONTEXT_LINES, FencedCode
from dflash_mlx.terminal.screen.markdown import MarkdownStream
from tests.equipment.screen import Screen, stream_markdown


@pytest.mark.slow
@pytest.mark.parametrize("color", [None, "256"])
def test_code_is_what_a_copy_gives(color):
    code = "".join(
        f"def f{i}(x):\n\treturn {i}  # {'long ' * i}\n\n" for i in range(30)
    )
    expected = code.expandtabs(4).rstrip("\n").split("\n")
    text = f"```python\n{code}```\nafter"
    screen = stream_markdown(text, 300, color_system=color)
    # The language is shown above the code.
    assert screen.rows() == [
        "python",
        *(line.rstrip() for line in expected),
        "",
        "after",
    ]
    narrow = stream_markdown(text, 40, step=5, color_system=color)
    # The terminal wraps the lines; no line end is written inside one.
    longest = max(expected, key=len)
    assert color or longest in narrow.written
    assert "".join(narrow.rows()).replace(" ", "") == "".join(
        ["python", *expected, "after"]
    ).replace(" ", "")


def test_an_indented_fence_inside_a_fence_is_code():
    text = "```\na\n    ```\nb\n```\nafter"
    assert stream_markdown(text).rows() == ["a", "    ```", "b", "", "after"]


def test_a_string_over_a_blank_line_keeps_its_colour():
    screen = stream_markdown('```python\nx = """one\n\ntwo"""\n```', step=1)
    colours = [
        screen.written.rpartition(word)[0].rpartition("\x1b[")[2]
        for word in ("one", "two")
    ]
    assert colours[0] == colours[1] and colours[0].startswith("3")


@pytest.mark.slow
def test_few_lines_above_are_highlighted_again():
    screen = Screen(80, 10)
    markdown = MarkdownStream(screen.console(), refresh=0)
    markdown.write("```python\n")
    for i in range(4 * CONTEXT_LINES):
        markdown.write(f"x{i} = {i}\n")
        assert isinstance(markdown._code, FencedCode)
        assert len(markdown._code._above) <= CONTEXT_LINES


def test_colours_of_code_can_be_read_on_light_and_dark_backgrounds():
    """Blue is too dark for a black one; yellow and bright colours are too pale."""
    code = (
        "@cached\nclass A(int):\n    def f(x):  # why\n        return 'a' + str(12)\n"
    )
    screen = stream_markdown(f"```python\n{code}```\n", color_system="256")
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", screen.written))
    used = {int(n) for code in codes for n in code.split(";") if n}
    assert used & {32, 35, 36} and not used & {33, 34, *range(40, 48), *range(90, 108)}
