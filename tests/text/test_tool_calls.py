"""Tool calls of every format are found wherever the pieces of the text are cut."""

import json

import pytest

from dflash_mlx.text.tool_calls import (
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Text,
    ToolCallParser,
    formats,
)
from tests.equipment.tool_samples import (
    HARD,
    PARIS,
    SAMPLES,
    TIME,
    TOOLS,
    WRITE,
    cut,
    parse,
)
from tests.equipment.tool_writers import CHANNEL, harmony, hermes, llama, qwen, written

NAMES = [f"{i}-{sample.format.name}" for i, sample in enumerate(SAMPLES)]
BY_FORMAT = {sample.format.name: sample for sample in SAMPLES}
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=NAMES)


@every_sample
def test_a_whole_text_and_its_characters_give_the_same_calls(sample):
    wanted = (sample.calls, sample.texts, [])
    assert parse(sample.format, [sample.text])[:3] == wanted
    assert parse(sample.format, list(sample.text))[:3] == wanted


@pytest.mark.slow
@every_sample
def test_every_cut_gives_the_same_calls(sample):
    wanted = (sample.calls, sample.texts, [])
    for i in range(len(sample.text) + 1):
        assert parse(sample.format, cut(sample.text, [i]))[:3] == wanted


@pytest.mark.slow
@every_sample
def test_a_cut_call_is_not_whole(sample):
    """Max_tokens ended the text before the last call's end, at every character."""
    for i in range(len(sample.text) - sample.end):
        found = parse(sample.format, [sample.text[:i]], truncated=True)
        assert found.calls == sample.calls[: len(found.calls)]
        assert len(found.calls) < len(sample.calls)
        for event in found.broken:
            assert event.truncated and sample.text[:i].endswith(event.raw)
        assert found.calls or found.outside.lstrip() == sample.text[:i].lstrip()
    assert parse(sample.format, [sample.text], truncated=True).calls == sample.calls


# Text is all of it delivered, and only what may open a call is held back.


@pytest.mark.parametrize("name", BY_FORMAT)
def test_text_is_delivered_at_once(name):
    format = BY_FORMAT[name].format
    parser = ToolCallParser(format, TOOLS)
    assert parser.push("Hello ") == [Text("Hello ")]
    for marker in format.opening:
        assert parser.push(f"a < b {marker[:-1]}") == [Text("a < b ")]
        assert parser.push("?") == [Text(f"{marker[:-1]}?")]
    assert parser.push(" \n\n") == [Text(" \n\n")]
    assert parser.push(format.opening[0][:-1]) == []
    assert parser.close() == [Text(format.opening[0][:-1])]


def test_without_a_format_everything_is_text():
    parser = ToolCallParser(None, TOOLS)
    text = hermes(PARIS)
    assert parser.push(text) == [Text(text)]
    assert parser.close() == []


@pytest.mark.parametrize(
    "before, after, text",
    [
        ("\n\n", "", ""),
        ("  Hi.\n\n", "", "  Hi.\n\n"),
        ("", "\n", ""),
        ("", "\n\n Done. ", "\n\n Done. "),
        ("a", "b", "ab"),
    ],
)
def test_text_around_calls(before, after, text):
    """White space that has no other text before or behind it goes."""
    answer = f"{before}{hermes(PARIS, TIME)}{after}"
    for pieces in ([answer], list(answer)):
        assert parse(formats.HERMES, pieces)[:3] == ([PARIS, TIME], text, [])


@pytest.mark.parametrize("text", ["", " \n", "  x\n", "\n\n{", "日本 <"])
def test_text_without_calls(text):
    for format in (None, formats.HERMES, formats.LLAMA, formats.HARMONY):
        for pieces in ([text], list(text)):
            assert parse(format, pieces) == ([], text, [], [], [], text)


def test_text_between_the_calls_of_a_block():
    answer = qwen(PARIS, TIME, one_block=True)
    answer = answer.replace("</function>", "</function> then ", 1)
    answer = answer.replace("\n</tool_call>", "Bye</tool_call>.")
    assert parse(formats.QWEN, list(answer))[:3] == ([PARIS, TIME], " then \nBye.", [])


# Arguments come as soon as they are certain.


def fragments(format, pieces):
    """The text of arguments after each piece."""
    parser, found = ToolCallParser(format, TOOLS), []
    for piece in pieces:
        events = parser.push(piece)
        found.append([e.fragment for e in events if isinstance(e, CallArguments)])
    return ["".join(parts) for parts in found]


def test_json_arguments_are_streamed():
    pieces = ['<tool_call>{"name": "get_weather", "arguments"', ": {", '"city": "Pa']
    pieces += ["ris \\", 'n"', ", ", '"days": 1', "2", "}"]
    assert fragments(formats.HERMES, pieces) == [
        *("", "{", '"city": "Pa', "ris ", "\\n", '"', ', "days": ', "", "12}")
    ]


def test_the_start_of_a_call_is_reported_before_its_arguments():
    parser = ToolCallParser(formats.HERMES, TOOLS)
    assert parser.push('<tool_call>\n{"name": "get_weather", "argu') == []
    start = CallStart(0, "", "get_weather")
    assert parser.push('ments": {"c') == [start, CallArguments(0, "{")]


def test_strings_between_tags_are_streamed():
    pieces = ["<tool_call>\n<function=get_weather>\n<parameter=city>", "\nPa", "ris "]
    pieces += [
        "</p>\n",
        "x</parameter",
        ">\n<",
        "parameter=days>\n1",
        "2\n</parameter>",
    ]
    assert fragments(formats.QWEN, pieces) == [
        *('{"city": "', "Pa", "ris ", "</p>", "\\nx", "", '", "days": ', "12")
    ]


def test_one_piece_gives_one_event_of_arguments():
    events = ToolCallParser(formats.HERMES, TOOLS).push(hermes(WRITE, WRITE) + "a b")
    kinds = [CallStart, CallArguments, CallEnd] * 2 + [Text]
    assert [type(event) for event in events] == kinds


# The end of the text.


@pytest.mark.parametrize(
    "format, text",
    [
        (formats.HARMONY, harmony("get_weather", PARIS[2], CHANNEL, "")),
        (formats.HERMES, hermes(PARIS).removesuffix("\n</tool_call>")),
        (formats.QWEN, qwen(PARIS).removesuffix("\n</tool_call>")),
        (formats.QWEN, qwen(PARIS).removesuffix("</function>\n</tool_call>")),
        (formats.GEMMA_4, BY_FORMAT["gemma4"].text.removesuffix("<tool_call|>")),
        (formats.LLAMA, llama(PARIS)),
    ],
)
def test_the_end_of_the_text_ends_a_call(format, text):
    """As a closing marker is a token that ends the answer and has no text."""
    found = parse(format, list(text))
    assert found.calls[-1] == PARIS and not found.broken


def test_a_text_that_ends_inside_a_call():
    text = f"Hi {hermes(PARIS)}"[:-30]
    for truncated in (True, False):
        found = parse(formats.HERMES, list(text), truncated=truncated)
        assert found.text == "Hi "
        (event,) = found.broken
        reason = "the text ends inside the call"
        assert event == CallBroken(0, text[3:], reason, truncated=True)
    (event,) = parse(formats.HERMES, [text[:20]]).broken
    assert (event.index, event.raw) == (None, text[3:20])


@pytest.mark.slow
def test_long_arguments_take_linear_time():
    """A megabyte in one piece, and in many."""
    content = 'line "one"\n' * 20_000
    call = ("", "write-file", {"content": content})
    for format, text in (
        (formats.HERMES, hermes(call)),
        (formats.QWEN, qwen(call)),
    ):
        pieces = cut(text, range(50, len(text), 50))
        assert parse(format, pieces).calls == [call]
        assert parse(format, [text]).calls == [call]


def test_samples_are_json():
    assert json.loads(written(HARD)) == HARD
