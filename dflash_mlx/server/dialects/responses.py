"""OpenAI's responses: the fields of their requests.

Owns the fields of /v1/responses. How input is read is in responses_input, how an answer
is written in responses_writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ..errors import PromptTooLong, unsupported
from ..schema import (
    MAX_TOP_LOGPROBS,
    Request,
    SamplingFields,
    Texts,
    ToolChoice,
    parse_body,
    require_field,
)
from .openai import (
    OpenAIDialect,
    read_effort,
    read_format,
    read_max_tokens,
    read_tool_choice,
)
from .responses_input import read_input
from .responses_tools import Tools, read_tools
from .responses_writer import ResponseWriter

REASONING = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
# Fields that are ignored with a warning. Others are ignored without.
IGNORED = ("context_management", "max_tool_calls", "moderation")


class ResponsesBody(SamplingFields):
    """The fields of a Responses request that are honoured."""

    model: str | None = None
    input: Any = None
    instructions: str | None = None
    tools: list[Any] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    reasoning: dict[str, Any] = Field(default_factory=dict)
    text: dict[str, Any] = Field(default_factory=dict)
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: Texts = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    truncation: str | None = None
    store: bool = False
    stream: bool = False
    background: bool = False
    conversation: Any = None
    previous_response_id: str | None = None
    prompt: Any = None


class Responses(OpenAIDialect):
    """The dialect of /v1/responses. It stores nothing."""

    streamed_errors = (PromptTooLong,)  # Codex recognises a full context there only

    def request(self, body: Mapping[str, Any]) -> Request:
        """As in Dialect."""
        fields = parse_body(ResponsesBody, body)
        refuse_unsupported(fields)
        for name, value in fields.metadata.items():
            require_field(isinstance(value, str), f"metadata.{name}", "text", value)
        read = read_input(fields.input, fields.instructions)
        tools = read_tools([*fields.tools, *read.tools])
        functions = tuple(tools.functions)
        effort = fields.reasoning.get("effort")
        thinking, effort = read_effort(effort, "reasoning.effort")
        return Request(
            model=fields.model,
            messages=tuple(read.messages),
            tools=functions,
            tool_choice=read_tool_choice(
                fields.tool_choice, functions, fields.parallel_tool_calls
            ),
            constraint=read_format(fields.text.get("format"), "text.format"),
            sampling=fields.sampling(),
            max_tokens=read_max_tokens(("max_output_tokens", fields.max_output_tokens)),
            logprobs=read_logprobs(fields),
            thinking=thinking,
            effort=effort,
            warnings=(*read.warnings, *tools.warnings, *ignored_fields(body)),
        )

    def writer(
        self, body: Mapping[str, Any], request: Request, model: str
    ) -> ResponseWriter:
        """As in Dialect."""
        fields = parse_body(ResponsesBody, body)
        read = read_input(fields.input, fields.instructions)
        tools = read_tools([*fields.tools, *read.tools])
        echo = {"model": model, **echo_fields(fields, request, tools)}
        return ResponseWriter(request, echo, tools.routes, REASONING in fields.include)


def refuse_unsupported(fields: ResponsesBody) -> None:
    """Raise RequestError for fields that would be answered wrongly."""
    stateless = "This server stores nothing; send the whole conversation as input."
    for name in ("previous_response_id", "conversation"):
        if getattr(fields, name) is not None:
            raise unsupported(name, name, stateless)
    if fields.prompt is not None:
        raise unsupported("prompt", "prompt", stateless)
    if fields.background:
        raise unsupported("background", "background", "Use stream.")
    known = fields.truncation in (None, "auto", "disabled")
    require_field(known, "truncation", "auto or disabled", fields.truncation)


def read_logprobs(fields: ResponsesBody) -> int | None:
    """The number of alternatives per token, or None for no logprobs.

    Raises:
        RequestError: It is out of range.
    """
    most = fields.top_logprobs or 0
    fits = 0 <= most <= MAX_TOP_LOGPROBS
    require_field(fits, "top_logprobs", f"0 to {MAX_TOP_LOGPROBS}", most)
    return most if most or LOGPROBS in fields.include else None


def ignored_fields(body: Mapping[str, Any]) -> list[str]:
    """A warning for each field that is ignored although it asks for something."""
    warnings = [f"{name} was ignored." for name in IGNORED if body.get(name)]
    if body.get("store"):
        warnings.append("store was ignored: this server stores nothing.")
    if body.get("truncation") == "auto":
        warnings.append("truncation was ignored: a prompt is never shortened.")
    if (body.get("text") or {}).get("verbosity"):
        warnings.append("text.verbosity was ignored.")
    return warnings


def echo_fields(
    fields: ResponsesBody, request: Request, tools: Tools
) -> dict[str, Any]:
    """The fields of a request that its response repeats.

    Args:
        fields: The body.
        request: What it became.
        tools: Its tools.
    """
    reasoning = {name: fields.reasoning.get(name) for name in ("effort", "summary")}
    format = fields.text.get("format") or {"type": "text"}
    return {
        "background": False,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata,
        "parallel_tool_calls": request.tool_choice.parallel,
        "previous_response_id": None,
        "reasoning": reasoning,
        "store": False,
        "temperature": fields.temperature,
        "text": {"format": format},
        "tool_choice": echo_tool_choice(request.tool_choice, tools),
        "tools": tools.offered,
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": fields.top_p,
        "truncation": "disabled",
    }


def echo_tool_choice(choice: ToolChoice, tools: Tools) -> str | dict[str, Any]:
    """The field "tool_choice" of a response."""
    if not choice.names:
        return choice.mode
    routes = [tools.routes[name] for name in choice.names]
    named = [
        {"type": "custom" if route.custom else "function", "name": name}
        for name, route in zip(choice.names, routes, strict=True)
    ]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}
