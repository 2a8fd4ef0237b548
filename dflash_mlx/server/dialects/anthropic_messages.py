"""Anthropic's system prompt and messages to the form that chat templates read.

Owns the blocks of their contents. Does not know the other fields of a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError, unsupported
from .anthropic_tools import change_text
from .carried import unpack_reasoning
from .messages import left_out, reasoning_fields, template_call

# Claude Code's first line of the system prompt. Its values change from request to
# request, so that no prompt would have a prefix in common with the one before.
BILLING_LINE = re.compile(
    r"\Ax-anthropic-billing-header:(?:[ \t]*[\w-]+=[^;\s]*(?:;|(?=\s)|\Z))*[ \t]*\n*"
)
# Starts of a tool's result that say already that the tool has failed.
FAILED = ("error", "<tool_use_error")


def read_conversation(
    system: Any, messages: Sequence[Any], tools: Mapping[str, str] | None = None
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The messages for a chat template, and what was ignored, a sentence each.

    Args:
        system: The field "system": text, or a list of text blocks.
        messages: Objects with "role" and "content" as text or a list of blocks.
        tools: Definitions of tools that messages may load, by name.

    Raises:
        RequestError: A message cannot be used; its number and field are named.
    """
    if not messages:
        raise RequestError("messages must not be empty.", param="messages")
    conversation = Conversation(tools or {})
    conversation.add_system(read_system(system))
    for i, message in enumerate(messages):
        conversation.add(message, f"messages.{i}")
    return conversation.finished(), tuple(conversation.warnings)


def read_system(system: Any, tools: Mapping[str, str] | None = None) -> str:
    """The text of a system prompt, without Claude Code's billing line.

    Args:
        system: Text, or a list of blocks of text or of changes of the tools.
        tools: Definitions of tools that it may add, by name.

    Raises:
        RequestError: It is neither text nor a list of text blocks.
    """
    blocks = read_blocks("" if system is None else system, "system")
    texts = [
        change_text(block, tools or {})
        if block["type"] in ("tool_addition", "tool_removal")
        else text_of(block, name)
        for block, name in blocks
    ]
    return join_texts(BILLING_LINE.sub("", text) for text in texts)


def join_texts(texts) -> str:
    """The texts that are not empty, with an empty line between them."""
    return "\n\n".join(text for text in texts if text)


class Conversation:
    """Messages of a chat template, made from Anthropic's.

    Consecutive messages of a role become one. A system message among the others goes
    into the user's next message, before its text. If the assistant's is next, or none,
    it goes to the end of the tool's result or user's message before it.

    Args:
        tools: Definitions of tools that messages may load, by name.

    Attributes:
        warnings: What was ignored, a sentence each.
    """

    def __init__(self, tools: Mapping[str, str]):
        self._tools = tools
        self.warnings: dict[str, None] = {}  # in order, each once
        self._system: list[str] = []
        self._messages: list[dict[str, Any]] = []
        self._notes: list[str] = []  # system messages that wait for the next message
        self._names: dict[str, str] = {}  # of called tools, by id

    def finished(self) -> tuple[dict[str, Any], ...]:
        """All messages.

        Raises:
            RequestError: There are none of the user's or the assistant's.
        """
        if not self._messages:
            raise RequestError("messages must have a user's message.", param="messages")
        self._flush_notes()
        text = join_texts(self._system)
        system = [{"role": "system", "content": text}] if text else []
        return (*system, *self._messages)

    def add_system(self, text: str) -> None:
        """Add a system message."""
        (self._notes if self._messages else self._system).append(text)

    def add(self, message: Any, param: str) -> None:
        """Add a message of a request.

        Raises:
            RequestError: It cannot be used.
        """
        if not isinstance(message, Mapping):
            raise RequestError(f"{param} must be an object.", param=param)
        role, content = message.get("role"), message.get("content")
        match role:
            case "system":
                self.add_system(read_system(content, self._tools))
            case "user":
                self._add_user(read_blocks(content, f"{param}.content"))
            case "assistant":
                self._flush_notes()
                self._add_assistant(read_blocks(content, f"{param}.content"))
            case _:
                raise RequestError(
                    f"{param}.role must be user, assistant or system, but is "
                    f"{json.dumps(role)}.",
                    param=f"{param}.role",
                )

    def _add_user(self, blocks):
        results, texts = [], []
        for block, param in blocks:
            kind = block["type"]
            if kind == "tool_result":
                results.append(self._tool_result(block, param))
            elif is_server_block(kind):
                self._warn(kind)
            else:
                texts.append(text_of(block, param))
        self._messages += results
        if texts or not results:
            self._add_text(join_texts([*self._notes, *texts]))
            self._notes = []
        else:
            self._flush_notes()

    def _add_text(self, text):
        last = self._messages[-1] if self._messages else None
        if last and last["role"] == "user":
            last["content"] = join_texts([last["content"], text])
        else:
            self._messages.append({"role": "user", "content": text})

    def _flush_notes(self):
        text, self._notes = join_texts(self._notes), []
        last = self._messages[-1] if self._messages else None
        if text and last and last["role"] == "tool":
            last["content"] = join_texts([last["content"], text])
        elif text:
            self._add_text(text)

    def _tool_result(self, block, param):
        id = block.get("tool_use_id")
        if not isinstance(id, str):
            name = f"{param}.tool_use_id"
            raise RequestError(f"{name} must be text.", param=name)
        text = result_text(block.get("content"), f"{param}.content", self._tools)
        if block.get("is_error") is True and not text.lower().startswith(FAILED):
            text = f"Error: {text}"
        message = {"role": "tool", "content": text, "tool_call_id": id}
        return message | ({"name": self._names[id]} if id in self._names else {})

    def _add_assistant(self, blocks):
        content, reasoning, calls = [], [], []
        for block, param in blocks:
            match block["type"]:
                case "text":
                    content.append(text_of(block, param))
                case "thinking":
                    reasoning.append(thinking_of(block))
                case "tool_use":
                    calls.append(self._call(block, param))
                case "redacted_thinking":
                    pass
                case kind:
                    self._warn(kind)
        last = self._messages[-1] if self._messages else {}
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": ""}
            self._messages.append(last)
        last["content"] += "".join(content)
        reasoned = join_texts([last.get("reasoning_content", ""), *reasoning])
        last |= reasoning_fields(reasoned) if reasoned else {}
        calls = [*last.get("tool_calls", ()), *calls]
        last |= {"tool_calls": calls} if calls else {}

    def _call(self, block, param):
        id, name = block.get("id"), block.get("name")
        if not isinstance(id, str) or not isinstance(name, str):
            raise RequestError(f"{param} must have an id and a name.", param=param)
        self._names[id] = name
        return template_call(id, name, block.get("input"))

    def _warn(self, kind):
        self.warnings[f"Content of type {kind!r} in messages was ignored."] = None


def is_server_block(kind: str) -> bool:
    """Whether a block belongs to a tool that Anthropic's own servers run."""
    return kind == "server_tool_use" or kind.endswith("_tool_result")


def read_blocks(content: Any, param: str) -> list[tuple[Mapping[str, Any], str]]:
    """The blocks of a content, each with its name for errors.

    Raises:
        RequestError: It is neither text nor a list of objects with a type.
    """
    if isinstance(content, str):
        return [({"type": "text", "text": content}, param)]
    if not isinstance(content, list):
        raise RequestError(f"{param} must be text or a list of blocks.", param=param)
    found = []
    for i, block in enumerate(content):
        name = f"{param}.{i}"
        if not isinstance(block, Mapping) or not isinstance(block.get("type"), str):
            raise RequestError(f"{name} must be an object with a type.", param=name)
        found.append((block, name))
    return found


def block_texts(content: Any, param: str) -> list[str]:
    """The texts of a content; none for null.

    Raises:
        RequestError: It has blocks that are not text.
    """
    if content is None:
        return []
    return [text_of(block, name) for block, name in read_blocks(content, param)]


def text_of(block: Mapping[str, Any], param: str) -> str:
    """The text of a block that holds text: a text, a document or a search result.

    Raises:
        RequestError: It is an image, or has another type.
    """
    match block:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "text"}:
            raise RequestError(f"{param}.text must be text.", param=f"{param}.text")
        case {"type": "search_result"}:
            heading = "\n".join(text_fields(block, ("title", "source"), param)).strip()
            texts = block_texts(block.get("content"), f"{param}.content")
            return join_texts([heading, *texts])
        case {"type": "document", "source": {"type": "text", "data": str(data)}}:
            return join_texts([*text_fields(block, ("title", "context"), param), data])
        case {"type": "document", "source": {"type": "content", "content": inner}}:
            texts = block_texts(inner, f"{param}.source.content")
            head = text_fields(block, ("title", "context"), param)
            return join_texts([*head, *texts])
    kind = block["type"]
    raise unsupported(
        f"Content of type {kind!r}", param, "This server reads text only."
    )


def text_fields(
    block: Mapping[str, Any], names: Sequence[str], param: str
) -> list[str]:
    """The texts of a block's fields; empty for those that it does not have.

    Raises:
        RequestError: One is not text.
    """
    found = []
    for name in names:
        value = block.get(name)
        if not isinstance(value, str | None):
            field = f"{param}.{name}"
            raise RequestError(f"{field} must be text.", param=field)
        found.append(value or "")
    return found


def result_text(content: Any, param: str, tools: Mapping[str, str]) -> str:
    """The text of a tool's result, with notes in place of what is not text.

    Args:
        content: Null, text or a list of blocks.
        param: Its name for errors.
        tools: Definitions of tools that it may load, by name.

    Raises:
        RequestError: It is neither null, text nor a list of blocks.
    """
    texts = []
    for block, name in read_blocks("" if content is None else content, param):
        match block:
            case {"type": "text" | "search_result"}:
                texts.append(text_of(block, name))
            case {"type": "document", "source": {"type": "text" | "content"}}:
                texts.append(text_of(block, name))
            case {"type": "tool_reference", "tool_name": str()}:
                texts.append(change_text(block, tools))
            case _:
                texts.append(left_out(block["type"]))
    return join_texts(texts)


def thinking_of(block: Mapping[str, Any]) -> str:
    """The text of a thinking block, which may be in our own signature instead."""
    text = block.get("thinking")
    if isinstance(text, str) and text:
        return text
    return unpack_reasoning(block.get("signature")) or ""
