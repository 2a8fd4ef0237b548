"""Tools of a Responses request: functions, custom tools and groups."""

import pytest

from dflash_mlx.server.dialects.responses_tools import Route, flat_name, read_tools
from dflash_mlx.server.errors import RequestError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
CUSTOM = {"type": "custom", "name": "patch", "description": "P.", "format": GRAMMAR}


def test_a_function():
    tools = read_tools([FUNCTION])
    function = {"name": "f", "parameters": SCHEMA, "strict": True}
    assert tools.functions == [{"type": "function", "function": function}]
    assert tools.routes == {"f": Route("f")} and tools.offered == [FUNCTION]


def test_a_custom_tool_is_a_function_of_one_text():
    (entry,) = read_tools([CUSTOM]).functions
    about = 'The tool\'s input. It must match this lark grammar:\nstart: "a"'
    assert entry["function"] == {
        "name": "patch",
        "description": "P.",
        "parameters": {
            "type": "object",
            "properties": {"input": {"type": "string", "description": about}},
            "required": ["input"],
        },
    }
    plain = read_tools([{"type": "custom", "name": "run"}])
    properties = plain.functions[0]["function"]["parameters"]["properties"]
    assert properties["input"]["description"] == "The tool's input as plain text."
    assert plain.routes == {"run": Route("run", custom=True)}


def test_groups_are_flattened():
    group = {
        "type": "namespace",
        "name": "mcp__files__",
        "tools": [FUNCTION, {**CUSTOM, "name": "_edit"}, {"type": "mcp"}],
    }
    tools = read_tools([group, FUNCTION])
    names = [each["function"]["name"] for each in tools.functions]
    assert names == ["mcp__files__f", "mcp__files__edit", "f"]
    assert tools.routes["mcp__files__edit"] == Route("_edit", "mcp__files__", True)
    assert tools.routes["mcp__files__f"].fields() == {
        "name": "f",
        "namespace": "mcp__files__",
    }
    assert [tool["name"] for tool in tools.offered[0]["tools"]] == ["f", "_edit"]
    assert tools.warnings == [
        "tools.0.tools.2 of type 'mcp' was left out: this server runs no tools."
    ]
    assert flat_name("read", None) == "read"


def test_foreign_and_repeated_tools_are_left_out():
    tools = read_tools([{"type": "web_search"}, {"type": "local_shell"}, FUNCTION] * 2)
    assert [tool["name"] for tool in tools.offered] == ["f"]
    assert len(tools.warnings) == 5 and "'web_search'" in tools.warnings[0]
    assert tools.warnings[-1] == "tools.5 was left out: another tool is named 'f'."
    empty = {"type": "namespace", "name": "n", "tools": [{"type": "mcp"}]}
    assert read_tools([empty]).offered == []


@pytest.mark.parametrize(
    "tool, param",
    [
        ("f", "tools.0"),
        ({"type": "function"}, "tools.0"),
        ({"type": "custom", "name": ""}, "tools.0"),
        ({**FUNCTION, "parameters": []}, "tools.0.parameters"),
        ({"type": "namespace", "tools": []}, "tools.0"),
        ({"type": "namespace", "name": "n", "tools": {"a": 1}}, "tools.0"),
        ({"type": "namespace", "name": "n", "tools": ["f"]}, "tools.0.tools.0"),
    ],
)
def test_tools_that_cannot_be_used(tool, param):
    with pytest.raises(RequestError) as caught:
        read_tools([tool])
    assert caught.value.param == param
