"""Anthropic's messages: the fields of their requests.

Owns the fields of /v1/messages and /v1/messages/count_tokens. How messages are read is
in anthropic_messages, how tools are in anthropic_tools, and how an answer is written
in anthropic_writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ..errors import RequestError
from ..schema import (
    Constraint,
    Objects,
    Request,
    SamplingFields,
    parse_body,
    require_field,
)
from .anthropic_messages import read_conversation
from .anthropic_tools import read_tool_choice, read_tools
from .anthropic_writer import MessageWriter, error_body
from .dialect import Dialect
from .openai import read_effort, read_max_tokens, read_stop

# Fields that are ignored with a warning. Others are ignored without.
IGNORED = ("container", "context_management", "mcp_servers")
THINKING = {"enabled": True, "disabled": False, "adaptive": None, "between_tools": None}


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


class Messages(Dialect):
    """The dialect of /v1/messages."""

    streamed_errors = ()

    def request(self, body: Mapping[str, Any]) -> Request:
        """As in Dialect."""
        fields = parse_body(MessagesBody, body)
        chosen = fields.tool_choice.get("name")
        tools = read_tools(fields.tools, fields.messages, chosen)
        messages, warnings = read_conversation(
            fields.system, fields.messages, tools.texts
        )
        thinking = read_thinking(fields.thinking)
        effort = fields.output_config.get("effort")
        off, effort = read_effort(effort, "output_config.effort")
        last = messages[-1]
        return Request(
            model=fields.model,
            messages=messages,
            continue_last=last["role"] == "assistant" and "tool_calls" not in last,
            tools=tools.functions,
            loaded_tools=tools.loaded,
            tool_choice=read_tool_choice(fields.tool_choice, tools.functions),
            constraint=read_format(fields),
            sampling=fields.sampling(),
            max_tokens=read_max_tokens(("max_tokens", fields.max_tokens)),
            stop=read_stop(fields.stop_sequences, "stop_sequences"),
            thinking=off if thinking is None else thinking,
            effort=effort,
            warnings=(*warnings, *tools.warnings, *ignored_fields(body)),
        )

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
