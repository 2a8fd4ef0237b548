"""Input items of a Responses request, as chat templates read them."""

import pytest

from dflash_mlx.server.dialects.carried import pack_reasoning, unpack_reasoning
from dflash_mlx.server.dialects.responses_input import read_input
from dflash_mlx.server.errors import RequestError

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


def read(*items, instructions=None):
    return read_input(list(items), instructions).messages


def test_text_and_items_are_read_alike():
    wanted = [{"role": "user", "content": "Hi"}]
    part = {"type": "input_text", "text": "Hi"}
    assert read_input("Hi", None).messages == wanted
    assert read(USER) == read({"type": "message", **USER}) == wanted
    assert read({"role": "user", "content": [part]}) == wanted


def test_roles():
    part = {"type": "output_text", "text": "B", "annotations": []}
    assert read(
        {"role": "developer", "content": "D"},
        {"type": "message", "role": "system", "content": "S"},
        USER,
        {"type": "message", "role": "assistant", "content": [part], "id": "msg_1"},
        instructions="I",
    ) == [
        {"role": "system", "content": "I"},
        {"role": "system", "content": "D"},
        {"role": "system", "content": "S"},
        USER,
        {"role": "assistant", "content": "B"},
    ]


def test_the_assistants_items_become_one_message():
    reasoning = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Hm."}],
        "encrypted_content": None,
    }
    said = {"type": "message", "role": "assistant", "content": "A"}
    found = read(USER, reasoning, said, CALL, {**CALL, "call_id": "c2"}, OUTPUT, said)
    assert [message["role"] for message in found] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert found[1]["content"] == "A" and found[1]["reasoning_content"] == "Hm."
    assert found[1]["tool_calls"][0] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": {"a": 1}},
    }
    assert found[1]["tool_calls"][1]["id"] == "c2"
    assert found[2] == {
        "role": "tool",
        "content": "done",
        "tool_call_id": "c1",
        "name": "f",
    }


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"encrypted_content": pack_reasoning("Hm é.")}, "Hm é."),
        # Our own field is the whole text, where a summary may not be.
        (
            {"encrypted_content": pack_reasoning("Long."), "summary": [{"text": "S"}]},
            "Long.",
        ),
        ({"encrypted_content": "gAAAA"}, None),
        ({"encrypted_content": "gAAAA", "summary": [{"text": "S"}]}, "S"),
        ({"content": [{"text": "C"}], "summary": [{"text": "S"}]}, "C"),
        ({"summary": [{"text": "S"}, {"text": "T"}]}, "S\n\nT"),
        ({"summary": 5, "content": "text"}, None),
        ({}, None),
    ],
)
def test_reasoning(fields, text):
    found = read(USER, {"type": "reasoning", **fields})
    if text is None:
        assert found == [USER]
    else:
        assert found[1]["reasoning_content"] == text and found[1]["content"] == ""


def test_reasoning_that_is_carried():
    assert unpack_reasoning(pack_reasoning("é\n")) == "é\n"
    damaged = ("dflash1:*", "dflash1:/w==", "dflash2:YQ==", "YQ==", None, 5)
    assert all(unpack_reasoning(value) is None for value in damaged)


def test_custom_and_grouped_calls():
    custom = {"type": "custom_tool_call", "call_id": "c1", "name": "patch"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}
    found = read(USER, {**custom, "input": "*** Begin"}, output)
    function = found[1]["tool_calls"][0]["function"]
    assert function == {"name": "patch", "arguments": {"input": "*** Begin"}}
    assert found[2]["name"] == "patch" and found[2]["content"] == "ok"
    found = read(USER, {**CALL, "namespace": "mcp__files"}, OUTPUT)
    assert found[1]["tool_calls"][0]["function"]["name"] == "mcp__files__f"
    assert found[2]["name"] == "mcp__files__f"


def test_outputs_of_every_form():
    def text(output):
        return read(USER, CALL, {**OUTPUT, "output": output})[-1]["content"]

    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert text(parts) == "a\n\nb" and text("") == ""
    assert text({"ok": True}) == '{"ok": true}'
    image = {"type": "input_image", "image_url": "data:"}
    note = "[Content of type 'input_image' was left out: this server reads text only.]"
    assert text([parts[0], image]) == f"a\n\n{note}"


def test_other_items():
    search = {"type": "web_search_call", "id": "w"}
    tools = [{"type": "function", "name": "g"}]
    added = {"type": "additional_tools", "role": "developer", "tools": tools}
    reader = read_input([USER, search, search, added], None)
    assert list(reader.warnings) == [
        "Items of type 'web_search_call' in input were ignored."
    ]
    assert reader.messages == [USER] and reader.tools == tools


IMAGE = {"type": "input_image", "image_url": "http://a"}


@pytest.mark.parametrize(
    "given, param, word",
    [
        (None, "input", "text or a list"),
        ({"role": "user"}, "input", "text or a list"),
        ([], "input", "empty"),
        (["Hi"], "input.0", "object"),
        ([{"type": "item_reference", "id": "a"}], "input.0", "stores no items"),
        ([{"id": "msg_1"}], "input.0", "stores no items"),
        ([{"role": "robot", "content": "a"}], "input.0.role", "robot"),
        ([{"role": "user", "content": [IMAGE]}], "input.0.content.0", "input_image"),
        ([{"type": "function_call", "name": "f"}], "input.0", "call_id"),
        ([{"type": "function_call_output"}], "input.0.call_id", "call_id"),
        ([{**OUTPUT, "output": 3}], "input.0.output", "text or a list"),
        ([{"type": "additional_tools"}], "input.0", "list"),
    ],
)
def test_input_that_cannot_be_used(given, param, word):
    with pytest.raises(RequestError, match=word) as caught:
        read_input(given, None)
    assert caught.value.param == param and caught.value.status == 400
