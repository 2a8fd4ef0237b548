"""What OpenAI's APIs share: errors, usage, tools, output formats, comments.

Does not know how one of them writes an answer; see chat, completions and responses.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError, unsupported
from ..events import Event, Prefilled, Speed, Usage, Waiting
from ..schema import Constraint, ToolChoice, require_field
from .dialect import Dialect, comment_frame

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
# A function whose parameters are left out takes none.
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON object of an error."""
    return {
        "error": {
            "message": error.message,
            "type": ERROR_TYPES.get(error.status, "server_error"),
            "param": error.param,
            "code": error.code,
        }
    }


class OpenAIDialect(Dialect):
    """Base of OpenAI's dialects: errors of one shape, told by the HTTP status."""

    streamed_errors: tuple[type[RequestError], ...] = ()

    def error(self, error: RequestError) -> dict[str, Any]:
        """As in Dialect."""
        return error_body(error)


def usage_body(usage: Usage) -> dict[str, Any]:
    """Usage as chat and completions write it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def speed_body(speed: Speed) -> dict[str, Any]:
    """The extension fields about speed."""
    return {
        "tokens_per_second": speed.tokens_per_second,
        "tokens_per_round": speed.tokens_per_round,
        "speedup": speed.speedup,
    }


def progress_comment(event: Event | None) -> str:
    """A comment that says what a request waits for."""
    match event:
        case Waiting(loading=str(model)):
            return comment_frame(f"loading {model}")
        case Waiting(ahead):
            return comment_frame(f"queued {ahead}")
        case Prefilled(done, total):
            return comment_frame(f"prefill {done}/{total}")
    return comment_frame("keep-alive")


def new_id(prefix: str) -> str:
    """A new identifier, e.g. new_id("chatcmpl-")."""
    return prefix + secrets.token_hex(12)


def read_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The tools of a chat request, checked.

    Raises:
        RequestError: One is not a function, or has no name.
    """
    found = []
    for i, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            raise unsupported(f"A tool of type {tool['type']!r}", f"tools.{i}.type")
        function = tool.get("function")
        found.append(function_tool(function, f"tools.{i}.function"))
    return tuple(found)


def function_tool(function: Any, param: str) -> dict[str, Any]:
    """A function as an OpenAI tool.

    Raises:
        RequestError: It has no name, or its parameters are not an object.
    """
    named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
    if not named or not function["name"]:
        raise RequestError(f"{param} must have a name.", param=param)
    given = {name: value for name, value in function.items() if value is not None}
    parameters = given.get("parameters", NO_PARAMETERS)
    wanted = "an object with a JSON schema"
    is_schema = isinstance(parameters, Mapping)
    require_field(is_schema, f"{param}.parameters", wanted, parameters)
    return {"type": "function", "function": {**given, "parameters": parameters}}


def read_tool_choice(
    choice: Any, tools: Sequence[Mapping[str, Any]], parallel: bool
) -> ToolChoice:
    """tool_choice of chat and Responses requests.

    Args:
        choice: A word, or an object that names a function or allowed tools.
        tools: The request's.
        parallel: parallel_tool_calls.

    Raises:
        RequestError: It is something else, or names a tool that there is not.
    """
    if choice in (None, "auto", "none", "required"):
        mode, names = choice or "auto", ()
    elif isinstance(choice, Mapping):
        mode, names = _read_choice_object(choice)
    else:
        require_field(False, "tool_choice", "auto, none, required or an object", choice)
    known = {tool["function"]["name"] for tool in tools}
    for name in names:
        if name not in known:
            message = f"tool_choice names {name!r}, which is not among the tools."
            raise RequestError(message, param="tool_choice")
    if mode == "required" and not tools:
        raise RequestError("tool_choice needs tools.", param="tool_choice")
    return ToolChoice(mode, names, parallel)


def _read_choice_object(choice):
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", (name,)
        case {"type": "function" | "custom", "name": str(name)}:
            return "required", (name,)
        case {"type": "allowed_tools", "allowed_tools": Mapping() as inner}:
            return _read_allowed_tools(inner)
        case {"type": "allowed_tools"}:
            return _read_allowed_tools(choice)
    raise RequestError("tool_choice cannot be used.", param="tool_choice")


def _read_allowed_tools(allowed):
    names = []
    tools = allowed.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        match tool:
            case {"name": str(name)} | {"function": {"name": str(name)}}:
                names.append(name)  # tools without a name run on OpenAI's servers
    if not names:
        message = "tool_choice allows no tool that this server knows."
        raise RequestError(message, param="tool_choice")
    mode = "required" if allowed.get("mode") == "required" else "auto"
    return mode, tuple(names)


def read_format(format: Any, param: str = "response_format") -> Constraint | None:
    """The constraint of chat's response_format, or of Responses' text.format.

    Raises:
        RequestError: It is not a known format.
    """
    match format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema"}:
            inner = format.get("json_schema", format)
            schema = inner.get("schema") if isinstance(inner, Mapping) else None
            if schema is None:
                schema = format.get("schema")
            wanted = "a JSON schema"
            require_field(isinstance(schema, Mapping), f"{param}.schema", wanted, None)
            return Constraint("json_schema", schema)
        case {"type": "json_object", "schema": Mapping() as schema}:
            return Constraint("json_schema", schema)
        case {"type": "json_object"}:
            return Constraint("json_object")
    require_field(False, param, "of type text, json_object or json_schema", format)


def read_structured_outputs(value: Mapping[str, Any]) -> Constraint:
    """The extension field structured_outputs, with vLLM's names.

    Raises:
        RequestError: It has none of json, regex, grammar and choice, or several.
    """
    kinds = {"json": "json_schema", "regex": "regex", "grammar": "lark"}
    given = [name for name in (*kinds, "choice") if value.get(name) is not None]
    if len(given) != 1:
        raise RequestError(
            "structured_outputs must have one of json, regex, grammar and choice.",
            param="structured_outputs",
        )
    name, content = given[0], value[given[0]]
    param = f"structured_outputs.{name}"
    if name == "choice":
        texts = isinstance(content, list) and all(isinstance(c, str) for c in content)
        require_field(bool(texts and content), param, "a list of texts", content)
        options = " | ".join(json.dumps(each) for each in content)
        return Constraint("lark", f"start: {options}")
    wanted = Mapping if name == "json" else str
    words = "a JSON schema" if name == "json" else "text"
    require_field(isinstance(content, wanted), param, words, content)
    return Constraint(kinds[name], content)


def read_stop(stop: Any, param: str = "stop") -> tuple[str, ...]:
    """The stop strings: one text, or a list of up to 16.

    Args:
        stop: The field.
        param: Its name.

    Raises:
        RequestError: It is something else.
    """
    found = [stop] if isinstance(stop, str) else [] if stop is None else stop
    texts = isinstance(found, list) and all(isinstance(each, str) for each in found)
    fits = texts and len(found) <= 16
    require_field(fits, param, "a text, or a list of up to 16 texts", stop)
    return tuple(each for each in found if each)


def read_max_tokens(*fields: tuple[str, int | None]) -> int | None:
    """The first of several fields that is given, or None. -1 is no limit.

    Raises:
        RequestError: It is 0, or below -1.
    """
    for name, value in fields:
        if value is not None:
            require_field(value == -1 or value > 0, name, "1 or more", value)
            return value
    return None


def read_effort(effort: str | None, param: str) -> tuple[bool | None, str | None]:
    """Whether to think, and how hard.

    Raises:
        RequestError: The effort is not a known word.
    """
    if effort is None:
        return None, None
    if effort == "none":
        return False, None
    require_field(effort in EFFORTS, param, "none, " + ", ".join(EFFORTS), effort)
    return None, effort
