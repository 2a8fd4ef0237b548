"""An answer on a terminal or in a pipe: text, reasoning, colours of drafted tokens."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from dflash_mlx import load, stream_generate
from dflash_mlx.terminal.screen.display import Display
from dflash_mlx.text.reasoning import Splitter, tag_markers
from tests.equipment.screen import Screen

TEXT = "<think>\nLet me see.\nYes.\n</think>\n\nIt is **日本** é:\r\n\n- a\x1b[31m\n- b"
ANSWER = TEXT.split("</think>\n\n")[1]
COLOUR = re.compile(r"\x1b\[([0-9;]*)m([^\x1b]*)")


def responses(text, step=3):
    for n, i in enumerate(range(0, len(text), step)):
        yield SimpleNamespace(text=text[i : i + step], from_draft=n % 3 != 2)


def thinking_splitter():
    return Splitter(tag_markers("<think>", "</think>"))


def shown(screen, text=TEXT, step=3, console=None, **options):
    """The display of a text, written on a screen or a console."""
    clock = iter(range(100_000))
    display = Display(
        console or screen.console(),
        **{"splitter": thinking_splitter(), "clock": lambda: next(clock), **options},
    )
    for response in responses(text, step):
        display.push(response)
    display.close()
    return display


@pytest.mark.parametrize("markdown", [True, False])
@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize("reasoning", ["show", "fold", "hide"])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_a_pipe_gets_the_answers_own_bytes(markdown, drafts, reasoning, step):
    pipe, notes = io.StringIO(), io.StringIO()
    display = shown(
        None,
        step=step,
        console=Console(file=pipe),
        notes=Console(file=notes),
        markdown=markdown,
        drafts=drafts,
        reasoning=reasoning,
    )
    assert pipe.getvalue() == display.answer == ANSWER
    assert display.reasoning == "Let me see.\nYes.\n"
    reasoning_text = notes.getvalue()
    if reasoning == "show":
        assert reasoning_text == display.reasoning
    elif reasoning == "hide":
        assert reasoning_text == ""
    elif step < 1000:
        assert re.fullmatch(r"thought for \d+ tokens, \d+\.\d s\n", reasoning_text)


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("step", [1, 3])
def test_reasoning_dimmed_above_the_answer(width, step):
    screen = Screen(width)
    shown(screen, step=step)
    assert screen.rows() == [
        "Let me see.",
        "Yes.",
        "",
        "It is 日本 é:",
        "",
        " • a␛[31m",
        " • b",
    ]
    before, after = screen.written.split("It is", 1)
    assert "\x1b[2m" in before and "\x1b[2m" not in after
    assert not screen.controls()


@pytest.mark.parametrize("width", [40, 80])
def test_reasoning_folded_into_a_line_that_counts(width):
    screen = Screen(width)
    shown(screen, reasoning="fold")
    rows = screen.rows()
    assert re.fullmatch(r"thought for \d+ tokens, \d+\.\d s", rows[0])
    assert rows[1:3] == ["", "It is 日本 é:"] and "Let me" not in screen.written
    assert len(re.findall("thinking for", screen.written)) > 3
    assert not screen.controls()


def test_the_folded_count_is_of_each_reasoning_alone():
    from dflash_mlx.text.reasoning import HARMONY

    screen = Screen()
    shown(screen, "<think>abc</think>d", step=1, reasoning="fold")
    assert screen.rows()[0].startswith("thought for 11 tokens")  # the end tag included
    one = "<|channel|>analysis<|message|>abcdef<|end|>"
    text = f"{one}<|start|>assistant<|channel|>commentary<|message|>x<|end|>"
    screen = Screen()
    shown(
        screen,
        f"{text}<|start|>assistant{one}",
        step=1,
        splitter=Splitter(HARMONY),
        reasoning="fold",
    )
    counts = re.findall(r"thought for (\d+)", "\n".join(screen.rows()))
    assert len(counts) == 2 and int(counts[1]) <= int(counts[0])


def test_a_folded_line_stays_one_row_and_is_rarely_painted():
    screen = Screen(width=20)
    shown(screen, "<think>" + "a" * 30 + "</think>b", step=1, reasoning="fold")
    assert len([row for row in screen.rows() if row]) == 2
    screen = Screen()
    clock = iter(n / 100 for n in range(100_000))
    text = "<think>" + "a" * 100 + "</think>b"
    shown(screen, text, step=1, reasoning="fold", clock=lambda: next(clock))
    assert screen.written.count("thinking for") < 30


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [("<thin", "", "<thin"), ("<think>a</thin", "a</thin", "")],
)
def test_a_text_may_end_in_half_a_marker(text, reasoning, answer):
    for options in ({}, {"markdown": False}, {"drafts": True}):
        screen = Screen()
        display = shown(screen, text, step=1, **options)
        assert (display.reasoning, display.answer) == (reasoning, answer)
        assert screen.rows()[-1] == (reasoning or answer)


def test_an_answer_may_end_in_a_carriage_return():
    screen = Screen()
    shown(screen, "a\r", markdown=False)
    assert screen.written == "a\n"


def test_draft_colours_escape_control_characters():
    screen = Screen()
    shown(screen, "a\x1b[2Jb", drafts=True, step=1, markdown=False)
    assert screen.rows()[-1] == "a␛[2Jb"


def test_reasoning_that_is_empty_or_hidden_leaves_nothing():
    for text, how in (("<think>\n\n</think>\n\nHi", "fold"), (TEXT, "hide")):
        screen = Screen()
        shown(screen, text, reasoning=how)
        assert screen.rows()[0] in ("Hi", "It is 日本 é:")


def test_an_interrupted_answer_is_kept_and_its_line_ended():
    for text, reasoning, answer in (
        ("<think>\nhalf a tho", "half a tho", ""),
        ("<think>a</think>half of **it", "a", "half of **it"),
        ("```py\nx = (", "", "```py\nx = ("),
    ):
        for options in ({}, {"markdown": False}, {"drafts": True}):
            screen = Screen()
            display = shown(screen, text, **options)
            assert (display.reasoning, display.answer) == (reasoning, answer)
            assert screen.screen.cursor.x == 0
            words = answer.split("\n")[-1] or reasoning
            assert screen.rows()[-1] == words


def test_an_answer_between_two_reasonings():
    from dflash_mlx.text.reasoning import HARMONY

    text = (
        "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>"
        "commentary<|message|>two<|end|><|start|>assistant<|channel|>analysis"
        "<|message|>three<|end|><|start|>assistant<|channel|>final<|message|>four"
    )
    screen = Screen()
    display = shown(screen, text, splitter=Splitter(HARMONY))
    assert (display.reasoning, display.answer) == ("onethree", "twofour")
    assert [row for row in screen.rows() if row] == ["one", "two", "three", "four"]


def spans(screen, code):
    """The texts that were written with an SGR parameter."""
    return [text for sgr, text in COLOUR.findall(screen.written) if code in sgr]


LEGEND = "Drafted tokens look like this."


def green(screen):
    """The letters on the screen that are green, row by row."""
    buffer, size = screen.screen.buffer, range(screen.screen.columns)
    rows = [[buffer[y][x] for x in size] for y in range(screen.screen.lines)]
    texts = ["".join(c.data for c in row if c.fg == "green") for row in rows]
    return [text for text in texts if text.strip()]


@pytest.mark.parametrize("markdown", [True, False])
def test_only_drafted_tokens_are_coloured(markdown):
    screen = Screen()
    shown(screen, "aaabbb\n\nccc日本é", drafts=True, markdown=markdown)
    assert screen.rows() == [LEGEND, "", "aaabbb", "", "ccc日本é"]
    assert green(screen) == [LEGEND, "aaabbb", "cc日本é"]
    assert "35" not in [code for code, _ in COLOUR.findall(screen.written)]


@pytest.mark.parametrize("width", [20, 80])
def test_drafts_keep_markdown_and_whole_words(width):
    text = (
        "# A title\n\nSome **bold words** and `code` in a paragraph\n\n"
        "1. first\n2. second\n\n| a | b |\n|---|---|\n| one | two |\n"
    )
    both = []
    for drafts in (True, False):
        screen = Screen(width, 30)
        shown(screen, text, step=2, drafts=drafts)
        rows = screen.rows()
        both.append(rows[rows.index("") + 1 :] if drafts else rows)
    assert both[0] == both[1] and "1. first" in "\n".join(both[0])


def test_drafted_code_is_coloured_without_syntax():
    screen = Screen()
    display = Display(screen.console(), drafts=True)
    pieces = (("```py\n", False), ("def f", True), ("():\n", False), ("```\n", True))
    for text, from_draft in pieces:
        display.push(SimpleNamespace(text=text, from_draft=from_draft))
    display.close()
    assert screen.rows() == [LEGEND, "", "py", "def f():"]
    assert green(screen) == [LEGEND, "def f"]


def test_a_drafted_word_inside_markup_has_its_colour():
    screen = Screen()
    display = Display(screen.console(), drafts=True)
    for text, from_draft in (("a **b", False), ("c** `d", True), ("e` [f", False)):
        display.push(SimpleNamespace(text=text, from_draft=from_draft))
    display.push(SimpleNamespace(text="](http://x) and g", from_draft=True))
    display.close()
    assert screen.rows() == [LEGEND, "", "a bc de f (http://x) and g"]
    assert green(screen) == [LEGEND, "c d and g"]


def test_a_wide_character_of_several_tokens_is_complete():
    for options in ({}, {"markdown": False}):
        screen = Screen()
        display = Display(screen.console(), drafts=True, **options)
        for text, from_draft in (("a", True), ("", True), ("", False), ("日", True)):
            display.push(SimpleNamespace(text=text, from_draft=from_draft))
        display.close()
        assert screen.rows() == [LEGEND, "", "a日"]
        assert green(screen) == [LEGEND, "a日"]


def test_drafts_without_colours_are_underlined_or_plain():
    for options in ({}, {"markdown": False}):
        screen = Screen()
        console = screen.console(no_color=True)
        shown(screen, "aaabbbccc", console=console, drafts=True, **options)
        assert spans(screen, "4")[0] == LEGEND and not spans(screen, "32")
        assert spans(screen, "4")[1:]
    dumb = Screen()
    console = dumb.console(_environ={"TERM": "dumb"}, color_system="auto")
    display = shown(dumb, "aaa**b**\n\nccc", console=console, drafts=True)
    assert dumb.written == display.answer + "\n"


def test_plain_text_on_a_terminal_escapes_control_characters():
    screen = Screen()
    shown(screen, "a\x1b[2J**b**\r\nc\x07", markdown=False)
    assert screen.written == "a␛[2J**b**\nc␇\n"


def test_the_embedded_models_answer():
    pair, tokenizer = load()
    question = [{"role": "user", "content": "What is 12 + 34?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True)
    for options in ({}, {"markdown": False}, {"drafts": True}):
        screen = Screen(40)
        display = Display(screen.console(), **options)
        text = ""
        for response in stream_generate(pair, tokenizer, ids):
            text += response.text
            display.push(response)
        display.close()
        assert display.answer == text and display.reasoning == ""
        assert "46" in "".join(screen.rows())
