"""OpenAI's responses: from bodies to requests."""

import pytest

from dflash_mlx.server.dialects.responses import Responses
from dflash_mlx.server.errors import RequestError
from dflash_mlx.server.schema import Constraint, ToolChoice

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}
TOOLS = [
    {"type": "function", "name": "f", "parameters": SCHEMA},
    {"type": "custom", "name": "patch"},
    {"type": "web_search"},
]
LOGPROBS = ["message.output_text.logprobs"]


def read(**body):
    return Responses().request({"input": "Hi", **body})


def echo(**body):
    """The fields that the response repeats."""
    body = {"input": "Hi", **body}
    dialect = Responses()
    return dialect.writer(body, dialect.request(body), "m").response


@pytest.mark.parametrize(
    "body, field, value",
    [
        ({"model": "m"}, "model", "m"),
        ({}, "messages", ({"role": "user", "content": "Hi"},)),
        (
            {"instructions": "I"},
            "messages",
            ({"role": "system", "content": "I"}, {"role": "user", "content": "Hi"}),
        ),
        ({"max_output_tokens": 5}, "max_tokens", 5),
        ({"temperature": 0, "top_p": 0.5}, "sampling", {"temp": 0.0, "top_p": 0.5}),
        ({"reasoning": {"effort": "none"}}, "thinking", False),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "effort", "high"),
        ({"reasoning": None}, "effort", None),
        ({"text": {"format": FORMAT}}, "constraint", Constraint("json_schema", SCHEMA)),
        ({"text": {"format": {"type": "text"}}}, "constraint", None),
        (
            {"text": {"format": {"type": "json_object"}}},
            "constraint",
            Constraint("json_object"),
        ),
        ({"top_logprobs": 3}, "logprobs", 3),
        ({"include": LOGPROBS}, "logprobs", 0),
        ({"include": ["reasoning.encrypted_content"]}, "logprobs", None),
        (
            {"input": [{"role": "assistant", "content": "A"}]},
            "continue_last",
            False,
        ),
        ({"prompt_cache_key": "k", "user": "u", "store": False}, "warnings", ()),
    ],
)
def test_fields(body, field, value):
    assert getattr(read(**body), field) == value


@pytest.mark.parametrize(
    "choice, wanted, repeated",
    [
        (None, ToolChoice("auto"), "auto"),
        ("required", ToolChoice("required"), "required"),
        ("none", ToolChoice("none"), "none"),
        (
            {"type": "function", "name": "f"},
            ToolChoice("required", ("f",)),
            {"type": "function", "name": "f"},
        ),
        (
            {"type": "custom", "name": "patch"},
            ToolChoice("required", ("patch",)),
            {"type": "custom", "name": "patch"},
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}],
            },
            ToolChoice("auto", ("f",)),
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}],
            },
        ),
    ],
)
def test_tool_choice(choice, wanted, repeated):
    assert read(tools=TOOLS, tool_choice=choice).tool_choice == wanted
    assert echo(tools=TOOLS, tool_choice=choice)["tool_choice"] == repeated


def test_one_call_at_a_time():
    request = read(tools=TOOLS, parallel_tool_calls=False)
    assert request.tool_choice == ToolChoice("auto", (), False)
    assert echo(parallel_tool_calls=False)["parallel_tool_calls"] is False


def test_foreign_tools_do_not_fail_the_request():
    request = read(tools=TOOLS)
    names = [tool["function"]["name"] for tool in request.tools]
    assert names == ["f", "patch"] and "'web_search'" in request.warnings[0]


def test_tools_that_the_input_adds_are_offered():
    added = {"type": "additional_tools", "tools": [{"type": "function", "name": "g"}]}
    given = [{"role": "user", "content": "Hi"}, added]
    names = [each["function"]["name"] for each in read(input=given, tools=TOOLS).tools]
    assert names == ["f", "patch", "g"]
    assert "g" in [tool["name"] for tool in echo(input=given)["tools"]]


def test_what_is_ignored_is_named():
    request = read(
        store=True,
        truncation="auto",
        text={"verbosity": "low"},
        context_management=[{"type": "compaction"}],
    )
    assert request.warnings == (
        "context_management was ignored.",
        "store was ignored: this server stores nothing.",
        "truncation was ignored: a prompt is never shortened.",
        "text.verbosity was ignored.",
    )


def test_the_response_repeats_the_request():
    found = echo(
        instructions="I",
        tools=TOOLS,
        metadata={"a": "b"},
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": FORMAT, "verbosity": "low"},
        temperature=0.5,
        max_output_tokens=9,
        store=True,
    )
    wanted = {
        "model": "m",
        "instructions": "I",
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": FORMAT},
        "temperature": 0.5,
        "top_p": None,
        "max_output_tokens": 9,
        "store": False,
        "truncation": "disabled",
        "tools": [{**TOOLS[0], "strict": None}, TOOLS[1]],
    }
    assert wanted.items() <= found.items()


@pytest.mark.parametrize(
    "body, param",
    [
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "middle"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"include": "all"}, "include"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": "f"}, "tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_bodies_that_cannot_be_used(body, param):
    with pytest.raises(RequestError) as caught:
        read(**body)
    assert caught.value.param == param and caught.value.status == 400


def test_errors_are_openais():
    body = Responses().error(RequestError("No.", 404, "model_not_found", "model"))
    assert body["error"] == {
        "message": "No.",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert Responses().streams({"stream": True}) is True
    assert Responses().streams({}) is False
