"""The input of a Responses request to the form that chat templates read.

Owns the types of input items. Does not know the other fields of a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError, unsupported
from .carried import unpack_reasoning
from .messages import (
    TEXT_PARTS,
    left_out,
    read_message,
    read_part,
    reasoning_fields,
    template_call,
)
from .responses_tools import INPUT, flat_name


def read_input(given: Any, instructions: str | None) -> InputReader:
    """The messages of a request.

    Args:
        given: The field "input": text, or a list of items.
        instructions: The system message, or None.

    Raises:
        RequestError: An item cannot be used; its number and field are named.
    """
    reader = InputReader()
    if instructions:
        reader.messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise RequestError("input must be text or a list of items.", param="input")
    for i, item in enumerate(given):
        param = f"input.{i}"
        if not isinstance(item, Mapping):
            raise RequestError(f"{param} must be an object.", param=param)
        reader.add(item, param)
    if not reader.messages:
        raise RequestError("input must not be empty.", param="input")
    return reader


class InputReader:
    """Messages of a chat template, made from input items.

    Consecutive items of the assistant (reasoning, messages, calls) become one message.

    Attributes:
        messages: The messages.
        tools: Tools that items have added to the request's.
        warnings: What was ignored, a sentence each.
    """

    def __init__(self):
        self.messages: list[dict[str, Any]] = []
        self.tools: list[Any] = []
        self.warnings: dict[str, None] = {}  # in order, each once
        self._names: dict[str, str] = {}  # of called tools, by call_id

    def add(self, item: Mapping[str, Any], param: str) -> None:
        """Add an item.

        Raises:
            RequestError: It cannot be used.
        """
        kind = item.get("type")
        if kind is None:
            kind = "message" if "role" in item else "item_reference"
        match kind:
            case "message":
                self._message(item, param)
            case "reasoning":
                self._reasoning(item)
            case "function_call":
                self._call(item, param, item.get("arguments"))
            case "custom_tool_call":
                self._call(item, param, {INPUT: item.get("input")})
            case "function_call_output" | "custom_tool_call_output":
                self._output(item, param)
            case "additional_tools":
                self._additional_tools(item, param)
            case "item_reference":
                instead = "This server stores no items; send the item itself."
                raise unsupported("item_reference", param, instead)
            case _:
                warning = f"Items of type {kind!r} in input were ignored."
                self.warnings[warning] = None

    def _assistant(self):
        """The assistant's message at the end, a new one if there is none."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]

    def _message(self, item, param):
        message = read_message(item, param)
        if message["role"] != "assistant":
            self.messages.append(message)
            return
        last = self._assistant()
        texts = [text for text in (last["content"], message["content"]) if text]
        last["content"] = "\n\n".join(texts)

    def _reasoning(self, item):
        if text := reasoning_text(item):
            last = self._assistant()
            texts = [last["reasoning_content"]] if "reasoning_content" in last else []
            last |= reasoning_fields("\n\n".join([*texts, text]))

    def _call(self, item, param, arguments):
        id, name, group = (item.get(key) for key in ("call_id", "name", "namespace"))
        if not isinstance(id, str) or not isinstance(name, str):
            message = f"{param} must have a call_id and a name."
            raise RequestError(message, param=param)
        name = flat_name(name, group if isinstance(group, str) else None)
        self._names[id] = name
        calls = self._assistant().setdefault("tool_calls", [])
        calls.append(template_call(id, name, arguments))

    def _output(self, item, param):
        id = item.get("call_id")
        if not isinstance(id, str):
            name = f"{param}.call_id"
            raise RequestError(f"{name} must be text.", param=name)
        text = output_text(item.get("output"), f"{param}.output")
        name = {"name": self._names[id]} if id in self._names else {}
        message = {"role": "tool", "content": text, "tool_call_id": id}
        self.messages.append(message | name)

    def _additional_tools(self, item, param):
        tools = item.get("tools")
        if not isinstance(tools, list):
            raise RequestError(f"{param}.tools must be a list.", param=param)
        self.tools += tools


def reasoning_text(item: Mapping[str, Any]) -> str:
    """The text of a reasoning item; empty if another server has encrypted it."""
    carried = unpack_reasoning(item.get("encrypted_content"))
    if carried is not None:
        return carried
    return part_texts(item.get("content")) or part_texts(item.get("summary"))


def part_texts(parts: Any) -> str:
    """The texts of a list of parts, with empty lines between them."""
    parts = parts if isinstance(parts, Sequence) else ()
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


def output_text(output: Any, param: str) -> str:
    """The text of a tool's output, with notes in place of what is not text.

    Raises:
        RequestError: It is neither text, an object nor a list of parts.
    """
    if isinstance(output, str):
        return output
    if isinstance(output, Mapping):
        return json.dumps(output, ensure_ascii=False)
    if not isinstance(output, list):
        raise RequestError(f"{param} must be text or a list of parts.", param=param)
    texts = []
    for i, part in enumerate(output):
        kind = part.get("type") if isinstance(part, Mapping) else None
        is_text = kind is None or kind in TEXT_PARTS
        texts.append(read_part(part, f"{param}.{i}") if is_text else left_out(kind))
    return "\n\n".join(texts)
