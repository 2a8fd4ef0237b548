"""Anthropic's messages: from bodies to requests, and errors."""

import pytest

from dflash_mlx.server.dialects.anthropic import Messages, count_body
from dflash_mlx.server.errors import PromptTooLong, RequestError
from dflash_mlx.server.schema import Constraint, Request, ToolChoice

HI = {"messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"name": "f", "description": "F.", "input_schema": SCHEMA}
FUNCTION = {"name": "f", "description": "F.", "parameters": SCHEMA}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


def read(**body):
    return Messages().request({**HI, **body})


@pytest.mark.parametrize(
    "body, field, value",
    [
        ({"model": "m"}, "model", "m"),
        ({}, "messages", ({"role": "user", "content": "Hi"},)),
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": None}, "max_tokens", None),
        (
            {"temperature": 1, "top_p": 0.9, "top_k": 7, "seed": 3},
            "sampling",
            {"temp": 1.0, "top_p": 0.9, "top_k": 7, "seed": 3},
        ),
        ({"stop_sequences": ["a", "b"]}, "stop", ("a", "b")),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking", True),
        ({"thinking": {"type": "disabled"}}, "thinking", False),
        ({"thinking": {"type": "adaptive"}}, "thinking", None),
        ({"thinking": {"type": "between_tools"}}, "thinking", None),
        ({"output_config": {"effort": "max"}}, "effort", "max"),
        (
            {"output_config": {"format": FORMAT}},
            "constraint",
            Constraint("json_schema", SCHEMA),
        ),
        ({"output_format": FORMAT}, "constraint", Constraint("json_schema", SCHEMA)),
        ({"tools": [TOOL]}, "tools", ({"type": "function", "function": FUNCTION},)),
        (
            {"tools": [{**TOOL, "type": "custom", "strict": True}]},
            "tools",
            ({"type": "function", "function": {**FUNCTION, "strict": True}},),
        ),
        ({"metadata": {"user_id": "u"}, "service_tier": "auto"}, "warnings", ()),
    ],
)
def test_fields(body, field, value):
    assert getattr(read(**body), field) == value


@pytest.mark.parametrize(
    "choice, wanted",
    [
        ({"type": "auto"}, ToolChoice("auto")),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            ToolChoice("auto", (), False),
        ),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "f"}, ToolChoice("required", ("f",))),
        (None, ToolChoice("auto")),
    ],
)
def test_tool_choice(choice, wanted):
    assert read(tools=[TOOL], tool_choice=choice).tool_choice == wanted


def test_the_beginning_of_an_answer_is_continued():
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    for content, wanted in (("The", True), ([call], False)):
        messages = [*HI["messages"], {"role": "assistant", "content": content}]
        assert read(messages=messages).continue_last is wanted
    assert read().continue_last is False


def test_what_is_ignored_is_named():
    web = {"type": "web_search_20250305", "name": "web_search"}
    request = read(
        tools=[web, TOOL, {"type": "bash_20250124", "name": "bash"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        context_management={"edits": []},
        mcp_servers=[],
    )
    assert [each["function"]["name"] for each in request.tools] == ["f"]
    assert list(request.warnings) == [
        "The tool 'web_search' of type 'web_search_20250305' was left out: this server "
        "runs no tools.",
        "The tool 'bash' of type 'bash_20250124' was left out: this server runs no "
        "tools.",
        "context_management was ignored.",
        "thinking.budget_tokens was ignored.",
    ]


@pytest.mark.parametrize(
    "body, param",
    [
        ({"messages": None}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"stop_sequences": 7}, "stop_sequences"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"input_schema": SCHEMA}]}, "tools.0"),
        ({"tools": [{"name": "f", "input_schema": "x"}]}, "tools.0.parameters"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": ["any"]}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": True}, "thinking"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"system": 3}, "system"),
    ],
)
def test_bodies_that_cannot_be_used(body, param):
    with pytest.raises(RequestError) as caught:
        read(**body)
    assert caught.value.param == param and caught.value.status == 400


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors(status, kind):
    body = Messages().error(RequestError("No.", status))
    assert body == {"type": "error", "error": {"type": kind, "message": "No."}}


def test_a_prompt_that_is_too_long_has_the_words_that_claude_code_reads():
    error = Messages().error(PromptTooLong(2100, 2048))["error"]
    assert error == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 2100 tokens > 2048 maximum",
    }


def test_count_tokens():
    assert count_body(12) == {"input_tokens": 12}


def test_streaming_and_thinking_that_is_not_displayed_are_read_from_the_body():
    dialect = Messages()
    assert dialect.streams({"stream": True}) and not dialect.streams({"stream": 1})
    for thinking, shown in ((None, True), ({"display": "omitted"}, False)):
        writer = dialect.writer({"thinking": thinking}, Request(), "m")
        assert writer.show_thinking is shown
