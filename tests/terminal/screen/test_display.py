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
    shown(screen, "a\x1b[2Jb", drafts=True, step=1)
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


def test_drafted_and_other_tokens_have_their_colours():
    screen = Screen()
    shown(screen, "aaabbb\n\nccc日本é", drafts=True, reasoning="hide")
    assert screen.rows() == ["drafted not drafted", "aaabbb", "", "ccc日本é"]
    assert spans(screen, "32") == ["drafted", "aaa", "bbb", "cc日", "本é"]
    assert spans(screen, "35") == ["not drafted", "c"]


def test_a_wide_character_of_several_tokens_is_complete():
    screen = Screen()
    display = Display(screen.console(), drafts=True)
    for text, from_draft in (("a", True), ("", True), ("", False), ("日", True)):
        display.push(SimpleNamespace(text=text, from_draft=from_draft))
    display.close()
    assert screen.rows() == ["drafted not drafted", "a日"]
    assert spans(screen, "32") == ["drafted", "a", "日"]


def test_drafts_without_colours_are_underlined_or_plain():
    screen = Screen()
    console = screen.console(no_color=True)
    shown(screen, "aaabbbccc", console=console, drafts=True)
    assert spans(screen, "4") == ["not drafted", "ccc"] and not spans(screen, "32")
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
