"""What models get wrong in tool calls: repaired, or delivered as it is."""

import pytest

from dflash_mlx.text.tool_calls import Text, ToolCallParser, formats
from tests.equipment.tool_samples import PARIS, SAMPLES, TIME, TOOLS, cut, parse, tool
from tests.equipment.tool_writers import (
    glm,
    hermes,
    kimi,
    llama,
    minimax,
    numbered,
    qwen,
)

BY_FORMAT = {sample.format.name: sample for sample in SAMPLES}


# What models get wrong.


@pytest.mark.parametrize(
    "body, name, arguments",
    [
        ('{"name": "get_time", "arguments": "{\\"a\\": 1}"}', "get_time", {"a": 1}),
        ('{"name": "get_time", "arguments": null}', "get_time", {}),
        ('{"name": "get_time", "arguments": ""}', "get_time", {}),
        ('{"name": "get_time"}', "get_time", {}),
        ('{"arguments": {"a": [1]}, "name": "get_time"}', "get_time", {"a": [1]}),
        ('{"name": "get_time", "parameters": {"a": 1}}', "get_time", {"a": 1}),
        ('{"name": "get_time", "a": 1, "b": "2"}', "get_time", {"a": 1, "b": "2"}),
        (
            '{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}',
            "f",
            {"a": 1},
        ),
        ('{"function": "f", "arguments": {"a": 1}}', "f", {"a": 1}),
        ('{"name": "functions.get_time", "arguments": {}}', "get_time", {}),
        ('{"name": "f", "arguments": {"a": 1}}}', "f", {"a": 1}),
        ("{'name': 'f', 'arguments': {'a': True, 'b': None}}", "f", None),
        ('{"name": "f", "arguments": {"a": "x\ny\t"}}', "f", {"a": "x\ny\t"}),
        ('{"name": "f", "arguments": {"a": [1,],}}', "f", {"a": [1]}),
        ('{"name": "f", "arguments": {"a": "C:\\dir"}}', "f", {"a": "C:\\dir"}),
        ('{"name": "f", "arguments": {"a": "\\ud83d\\ude00"}}', "f", {"a": "😀"}),
    ],
)
def test_unusual_objects(body, name, arguments):
    arguments = {"a": True, "b": None} if arguments is None else arguments
    text = f"<tool_call>{body}</tool_call>"
    for pieces in ([text], list(text)):
        assert parse(formats.HERMES, pieces)[:3] == ([("", name, arguments)], "", [])


def test_several_objects_in_a_block():
    for between in ("\n", ", ", "; "):
        text = hermes(PARIS, TIME).replace("\n</tool_call>\n<tool_call>\n", between)
        assert parse(formats.HERMES, list(text)).calls == [PARIS, TIME]
    text = hermes(PARIS, TIME).replace("\n</tool_call>\n<tool_call>\n", ", ")
    text = text.replace("<tool_call>\n", "<tool_call>[").replace("\n</", "]\n</")
    assert parse(formats.HERMES, list(text)).calls == [PARIS, TIME]


def test_a_missing_end_marker_before_another_call():
    text = hermes(PARIS, TIME).replace("\n</tool_call>\n", "\n")
    assert parse(formats.HERMES, list(text))[:3] == ([PARIS, TIME], "", [])
    text = qwen(PARIS, TIME).replace("</function>\n</tool_call>\n", "\n")
    assert parse(formats.QWEN, list(text))[:3] == ([PARIS, TIME], "", [])


def test_a_block_without_its_opening_marker():
    text = qwen(PARIS).removeprefix("<tool_call>\n")
    assert parse(formats.QWEN, list(text) + ["x"])[:3] == ([PARIS], "x", [])


def test_json_inside_a_function_tag():
    for text in (
        '<tool_call>\n<function=get_weather>\n{"city": "Paris", "days": 3}\n'
        "</function>\n</tool_call>",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", '
        '"days": 3}}\n</tool_call>',
    ):
        assert parse(formats.QWEN, list(text))[:3] == ([PARIS], "", [])


def test_a_tag_inside_a_value():
    content = 'x</parameter>y\n</parameter>\n</function>z <tool_call> {"</arg_value>"}'
    call = ("", "write-file", {"content": content, "path": "</arg_value></invoke>"})
    for format, write in (
        (formats.QWEN, qwen),
        (formats.GLM, glm),
        (formats.MINIMAX, minimax),
    ):
        text = write(call)
        if format is formats.QWEN:
            content = content.replace("\n</parameter>\n</function>", "</function>")
            call = ("", call[1], call[2] | {"content": content})
            text = write(call)
        assert parse(format, list(text))[:3] == ([call], "", [])


def test_a_value_without_its_end_tag():
    for call in (("", "get_time", {"a": 3}), ("", "write-file", {"path": "a b"})):
        text = qwen(call).replace("</parameter>\n", "")
        found = parse(formats.QWEN, list(text))
        assert found.calls == [call]
        assert found.warnings == [f"call 0 ({call[1]}): '</parameter>' is missing"]
    found = parse(formats.QWEN, [qwen(PARIS).replace("3\n</parameter>\n", "3\n")])
    assert found.calls == [PARIS] and len(found.warnings) == 1


def test_a_value_of_another_type_is_passed_on():
    call = ("", "get_weather", {"city": "Paris", "days": "2026-01-15"})
    for format, write in ((formats.QWEN, qwen), (formats.GLM, glm)):
        found = parse(format, list(write(call, TIME)))
        assert found.calls == [call, TIME] and not found.broken
        assert found.warnings == [
            "call 0 (get_weather): parameter 'days': "
            "the value '2026-01-15' is not of type integer"
        ]


def test_integers_are_exact_between_tags():
    text = qwen(("", "get_weather", {"days": 2**53 + 1}))
    assert parse(formats.QWEN, [text]).arguments == [f'{{"days": {2**53 + 1}}}']


# Calls that cannot be delivered.


@pytest.mark.parametrize(
    "format, broken, reason",
    [
        (formats.HERMES, "<tool_call>oops</tool_call>", "an object with a name"),
        (formats.HERMES, '<tool_call>{"a": 1}</tool_call>', "the call has no name"),
        (
            formats.HERMES,
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
            "the arguments are no JSON object",
        ),
        (
            formats.HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": 1 2}}</tool_call>',
            "',' or '}' was expected, not '2'",
        ),
        (formats.QWEN, "<tool_call>words</tool_call>", "'<function=' was expected"),
        (
            formats.QWEN,
            "<tool_call><function=f>words</function></tool_call>",
            "a parameter was expected, not 'w'",
        ),
        (formats.GLM, "<tool_call>some words</tool_call>", "the call has no name"),
        (formats.GEMMA_4, "<|tool_call>f{}<tool_call|>", "'call:' was expected"),
        (
            formats.KIMI_K2,
            "<|tool_call_begin|>f<|tool_call_argument_begin|>[]<|tool_call_end|>",
            "the arguments are no JSON object",
        ),
        (formats.LFM2, "<|tool_call_start|>[1]<|tool_call_end|>", "'(' was expected"),
        (
            formats.HARMONY,
            "<|channel|>commentary to=functions.f<|message|>print()<|call|>",
            "the arguments are no JSON object",
        ),
    ],
)
def test_a_broken_call_is_delivered_as_it_is(format, broken, reason):
    good = BY_FORMAT[format.name]
    text = f"Hi. {broken} Then: "
    for pieces in ([text + good.text], list(text + good.text)):
        found = parse(format, pieces)
        assert found.calls == good.calls
        assert found.text.replace(good.texts, "") == "Hi.  Then: "
        (event,) = found.broken
        assert event.raw == broken and event.reason.startswith(reason)
        assert not event.truncated
        assert parse(format, cut(text, [9])).broken[0].raw == broken


def test_white_space_before_a_broken_call_is_kept():
    found = parse(formats.HERMES, [f"\n\n<tool_call>x</tool_call>\n{hermes(TIME)}"])
    assert found.text == "\n\n" and found.calls == [TIME]


def test_the_second_call_of_a_block_is_broken():
    text = qwen(PARIS, TIME, one_block=True).replace(
        "<function=get_time>", "<function>"
    )
    found = parse(formats.QWEN, list(text))
    assert found.calls == [PARIS]
    assert found.text == "\n<function>\n</function>\n"


def test_deep_values_are_refused():
    deep = "[" * 500 + "]" * 500
    text = f'<tool_call>{{"name": "f", "arguments": {{"a": {deep}}}}}</tool_call>'
    (event,) = parse(formats.HERMES, [text]).broken
    assert event.raw == text and "64 levels" in event.reason


# Names and ids.


def test_an_unknown_tool_is_delivered_with_a_warning():
    found = parse(formats.HERMES, [hermes(("", "nothing", {"a": 1}))])
    assert found.calls == [("", "nothing", {"a": 1})]
    assert found.warnings == ["call 0 (nothing): there is no tool of this name"]


def test_a_tool_whose_own_name_has_the_prefix():
    tools = [tool("functions.f")]
    text = kimi(("functions.f", "", {}), ("functions.functions.f:1", "", {}))
    found = parse(formats.KIMI_K2, [text], tools)
    assert [call[1] for call in found.calls] == ["functions.f", "functions.f"]


def test_kimis_ids_are_kept():
    calls = numbered(PARIS, TIME)
    found = parse(formats.KIMI_K2, list(kimi(*calls)))
    assert [call[0] for call in found.calls] == [
        "functions.get_weather:0",
        "functions.get_time:1",
    ]


# Llama's objects without markers.


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "get_time"}',
        '{"city": "Paris", "name": "get_time", "parameters": {}}',
        '{"name": 1, "parameters": {}}',
        '{"name": "get_time", "parameters": 1}',
        "{not JSON",
        "{",
        f"Call {llama(TIME)}",
        "[1]",
    ],
)
def test_an_object_that_calls_no_tool_is_text(text):
    for pieces in ([text], list(text)):
        assert parse(formats.LLAMA, pieces)[:3] == ([], text, [])
        assert parse(formats.LLAMA, pieces, truncated=True)[:3] == ([], text, [])


def test_an_object_is_released_when_it_cannot_be_a_call():
    parser = ToolCallParser(formats.LLAMA, TOOLS)
    assert parser.push('\n {"na') == []
    assert parser.push('me": "get') == []
    assert parser.push('a", ') == [Text('\n {"name": "geta", ')]
    parser = ToolCallParser(formats.LLAMA, TOOLS)
    assert parser.push('{"city":') == [] and parser.push(" 1") == [Text('{"city": 1')]


def test_objects_after_the_first_one():
    for between in ("; ", "\n", ""):
        text = llama(PARIS) + between + llama(TIME) + between + "{x}"
        found = parse(formats.LLAMA, list(text))
        assert found.calls == [PARIS, TIME]
        assert found.text.strip("; \n") == "{x}" and not found.broken


def test_a_bare_call_that_breaks_after_its_start():
    text = '{"name": "get_weather", "parameters": {"city": 1 2}} and so on'
    (event,) = parse(formats.LLAMA, list(text)).broken
    assert (event.index, event.raw) == (0, text)


def test_code_after_the_python_tag_is_broken():
    text = "<|python_tag|>print(1)"
    (event,) = parse(formats.LLAMA, list(text)).broken
    assert (event.index, event.raw, event.truncated) == (None, text, False)


# Mentions of tags in a text.


@pytest.mark.parametrize(
    "format, text",
    [
        (formats.QWEN, "Write <function=name> and then <parameter=x>."),
        (formats.QWEN, "<function= is the beginning,\nand </function> the end"),
        (formats.MINICPM, 'A <function name="x"> tag'),
        (formats.HARMONY, "The <|channel|> token, the <|start|> token."),
        (formats.HARMONY, "to=functions.f is a recipient"),
    ],
)
def test_a_mention_is_text(format, text):
    for pieces in ([text], list(text)):
        assert parse(format, pieces)[:3] == ([], text, [])
