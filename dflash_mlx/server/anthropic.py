"""Anthropic's messages: the fields of their requests.

Owns the fields of /v1/messages and /v1/messages/count_tokens. How messages are read is
in anthropic_messages, how an answer is written in anthropic_writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from .anthropic_messages import read_conversation
from .anthropic_writer import MessageWriter, error_body
from .errors import RequestError
from .openai import function_tool, read_effort, read_max_tokens, read_stop
from .schema import (
    Constraint,
    Objects,
    Request,
    SamplingFields,
    ToolChoice,
    parse_body,
    require_field,
)

# Fields that are ignored with a warning. Others are ignored without.
IGNORED = ("container", "context_management", "mcp_servers")
THINKING = {"enabled": True, "disabled": False, "adaptive": None, "between_tools": None}
CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


class MessagesBody(SamplingFields):
    """The fields of a messages request that are honoured."""

    model: str | None = None
    messages: list[Any] = Field(default_factory=list)
    system: Any = None
    max_tokens: int | None = None
    stop_sequences: Any = None
    stream: bool = False
    thinking: dict[str, Any] = Field(default_factory=dict)
    tools: Objects = Field(default_factory=list)
    tool_choice: dict[str, Any] = Field(default_factory=dict)
    output_config: dict[str, Any] = Field(default_factory=dict)
    output_format: dict[str, Any] | None = None  # its older place


class Messages:
    """The dialect of /v1/messages."""

    streamed_errors = ()

    def request(self, body: Mapping[str, Any]) -> Request:
        """As in Dialect."""
        fields = parse_body(MessagesBody, body)
        messages, warnings = read_conversation(fields.system, fields.messages)
        tools, dropped = read_tools(fields.tools)
        thinking = read_thinking(fields.thinking)
        effort = fields.output_config.get("effort")
        off, effort = read_effort(effort, "output_config.effort")
        last = messages[-1]
        return Request(
            model=fields.model,
            messages=messages,
            continue_last=last["role"] == "assistant" and "tool_calls" not in last,
            tools=tools,
            tool_choice=read_tool_choice(fields.tool_choice, tools),
            constraint=read_format(fields),
            sampling=fields.sampling(),
            max_tokens=read_max_tokens(("max_tokens", fields.max_tokens)),
            stop=read_stop(fields.stop_sequences, "stop_sequences"),
            thinking=off if thinking is None else thinking,
            effort=effort,
            warnings=(*warnings, *dropped, *ignored_fields(body)),
        )

    def streams(self, body: Mapping[str, Any]) -> bool:
        """As in Dialect."""
        return body.get("stream") is True

    def writer(
        self, body: Mapping[str, Any], request: Request, model: str
    ) -> MessageWriter:
        """As in Dialect."""
        thinking = body.get("thinking") or {}
        return MessageWriter(request, model, thinking.get("display") != "omitted")

    def error(self, error: RequestError) -> dict[str, Any]:
        """As in Dialect."""
        return error_body(error)


def count_body(tokens: int) -> dict[str, Any]:
    """The answer of /v1/messages/count_tokens.

    Args:
        tokens: Length of the request's prompt.
    """
    return {"input_tokens": tokens}


def read_tools(
    tools: Sequence[Mapping[str, Any]],
) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """The tools as OpenAI's, and a warning for each that was left out.

    Raises:
        RequestError: One has no name, or its schema is not an object.
    """
    found, warnings = [], []
    for i, tool in enumerate(tools):
        if tool.get("type") in (None, "custom"):
            names = {"parameters": "input_schema"}
            function = {
                name: tool.get(names.get(name, name))
                for name in ("name", "description", "parameters", "strict")
            }
            found.append(function_tool(function, f"tools.{i}"))
        else:
            warnings.append(
                f"The tool {tool.get('name')!r} of type {tool['type']!r} was left out: "
                "this server runs no tools."
            )
    return tuple(found), warnings


def read_tool_choice(
    choice: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]
) -> ToolChoice:
    """The field "tool_choice".

    Raises:
        RequestError: Its type is unknown, or there is no such tool.
    """
    kind = choice.get("type") or "auto"
    known = isinstance(kind, str) and kind in CHOICES
    require_field(known, "tool_choice.type", ", ".join(CHOICES), kind)
    names = (choice.get("name"),) if kind == "tool" else ()
    if names and names[0] not in [tool["function"]["name"] for tool in tools]:
        message = f"tool_choice names {names[0]!r}, which is not among the tools."
        raise RequestError(message, param="tool_choice.name")
    if CHOICES[kind] == "required" and not tools:
        raise RequestError("tool_choice needs tools.", param="tool_choice")
    parallel = choice.get("disable_parallel_tool_use") is not True
    return ToolChoice(CHOICES[kind], names, parallel)


def read_thinking(thinking: Mapping[str, Any]) -> bool | None:
    """Whether to think; None where the request leaves it to the model.

    Raises:
        RequestError: Its type is unknown.
    """
    kind = thinking.get("type") or "adaptive"
    known = isinstance(kind, str) and kind in THINKING
    require_field(known, "thinking.type", ", ".join(THINKING), kind)
    return THINKING[kind]


def read_format(fields: MessagesBody) -> Constraint | None:
    """The constraint of output_config.format.

    Raises:
        RequestError: It is not a JSON schema.
    """
    format = fields.output_config.get("format") or fields.output_format
    match format:
        case None:
            return None
        case {"type": "json_schema", "schema": Mapping() as schema}:
            return Constraint("json_schema", schema)
    wanted = "of type json_schema with a schema"
    require_field(False, "output_config.format", wanted, format)


def ignored_fields(body: Mapping[str, Any]) -> list[str]:
    """A warning for each field that is ignored although it asks for something."""
    names = [name for name in IGNORED if body.get(name)]
    if (body.get("thinking") or {}).get("budget_tokens"):
        names.append("thinking.budget_tokens")
    return [f"{name} was ignored." for name in names]
