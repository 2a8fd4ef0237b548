"""Messages of a request to the form that chat templates read.

Owns roles, parts of content and tool calls in OpenAI's chat form, which the other
dialects translate to. Does not know tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError, unsupported
from ..schema import MAX_DEPTH, is_shallow

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


def read_messages(messages: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """The messages of a chat request, for a chat template.

    Args:
        messages: Objects with "role", "content" as text, parts or null, and further
            fields.

    Raises:
        RequestError: A message cannot be used; its number and field are named.
    """
    if not messages:
        raise RequestError("messages must not be empty.", param="messages")
    return tuple(
        read_message(message, f"messages.{i}") for i, message in enumerate(messages)
    )


def read_message(message: Any, param: str) -> dict[str, Any]:
    """One message, for a chat template.

    Raises:
        RequestError: It cannot be used.
    """
    if not isinstance(message, Mapping):
        raise RequestError(f"{param} must be an object.", param=param)
    role = message.get("role")
    if role not in ROLES:
        wanted = ", ".join(ROLES)
        raise RequestError(
            f"{param}.role must be one of {wanted}, but is {json.dumps(role)}.",
            param=f"{param}.role",
        )
    content = read_text(message.get("content"), f"{param}.content")
    role = {"developer": "system", "function": "tool"}.get(role, role)
    found: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        found |= assistant_fields(message, param)
    if role == "tool":
        for name in ("tool_call_id", "name"):
            if isinstance(message.get(name), str):
                found[name] = message[name]
    return found


def assistant_fields(message: Mapping[str, Any], param: str) -> dict[str, Any]:
    """The reasoning and the tool calls of an assistant's message."""
    found: dict[str, Any] = {}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        found |= reasoning_fields(reasoning)
    calls = message.get("tool_calls")
    if calls is None and isinstance(message.get("function_call"), Mapping):
        calls = [{"type": "function", "function": message["function_call"]}]
    if not isinstance(calls or [], list):
        raise RequestError(f"{param}.tool_calls must be a list.", param=param)
    read = [
        read_call(call, f"{param}.tool_calls.{i}") for i, call in enumerate(calls or ())
    ]
    return found | ({"tool_calls": read} if read else {})


def reasoning_fields(text: str) -> dict[str, str]:
    """Reasoning under the names that chat templates have for it."""
    return {"reasoning_content": text, "thinking": text}


def read_call(call: Any, param: str) -> dict[str, Any]:
    """A tool call of an earlier answer, with its arguments as an object.

    Raises:
        RequestError: It has no name.
    """
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{param}.function must have a name.", param=param)
    return template_call(
        str(call.get("id") or ""), function["name"], function.get("arguments")
    )


def template_call(id: str, name: str, arguments: Any) -> dict[str, Any]:
    """A tool call for a chat template.

    Args:
        id: Its identifier, or an empty text.
        name: The tool.
        arguments: An object, or its JSON. Other text is kept as it is.
    """
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        usable = isinstance(parsed, dict) and is_shallow(parsed, MAX_DEPTH)
        arguments = parsed if usable else arguments
    function = {"name": name, "arguments": {} if arguments is None else arguments}
    return {"id": id, "type": "function", "function": function}


def read_text(content: Any, param: str) -> str:
    """The text of a content: text, a list of text parts, or null.

    Raises:
        RequestError: It has other parts.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{param} must be text or a list of parts.", param=param)
    return "".join(read_part(part, f"{param}.{i}") for i, part in enumerate(content))


def read_part(part: Any, param: str) -> str:
    """The text of a part of a content.

    Raises:
        RequestError: It is not text.
    """
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RequestError(f"{param} must be an object.", param=param)
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        instead = "This server reads text only."
        raise unsupported(f"Content of type {kind!r}", param, instead)
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"{param}.text must be text.", param=param)
    return text


def left_out(kind: object) -> str:
    """What a tool's result says in place of content that is not text."""
    return f"[Content of type {kind!r} was left out: this server reads text only.]"


def fold_system_messages(
    messages: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The messages with one system message, which comes first.

    Leading system messages are joined. Each later one goes into the next user message,
    before its text, or becomes a user message if there is none.
    """
    first = 0
    while first < len(messages) and messages[first]["role"] == "system":
        first += 1
    folded: list[dict[str, Any]] = []
    if first:
        text = "\n\n".join(each["content"] for each in messages[:first])
        folded.append({"role": "system", "content": text})
    held: list[str] = []
    for message in messages[first:]:
        if message["role"] == "system":
            held.append(message["content"])
        elif message["role"] == "user" and held:
            text = "\n\n".join([*held, message["content"]])
            folded.append({**message, "content": text})
            held = []
        else:
            folded.append(dict(message))
    if held:
        folded.append({"role": "user", "content": "\n\n".join(held)})
    return folded
