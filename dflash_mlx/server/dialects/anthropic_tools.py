"""The tools of Anthropic's requests, those that are loaded later included.

Owns which tools the chat template is given, and the text of a tool that messages add.
Does not know the other blocks of messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..schema import ToolChoice, require_field
from .openai import function_tool

CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


@dataclass(frozen=True)
class Tools:
    """The tools of a request.

    A tool with "defer_loading" is not in the prompt until a message loads it. Its
    definition is then part of that message, so that the prompt before it stays as it
    was and its caches can be used again.

    Args:
        functions: The tools that the model may call, as OpenAI's.
        loaded: Names of those that messages define.
        texts: The definition of each tool that messages may define, by its name.
        warnings: What was left out, a sentence each.
    """

    functions: tuple[dict[str, Any], ...]
    loaded: tuple[str, ...]
    texts: Mapping[str, str]
    warnings: tuple[str, ...]


def read_tools(
    tools: Sequence[Mapping[str, Any]],
    messages: Sequence[Any] = (),
    chosen: str | None = None,
) -> Tools:
    """The tools of a request.

    Args:
        tools: The field "tools".
        messages: The messages, which may load tools and define further ones.
        chosen: The name in tool_choice, whose tool is always in the prompt.

    Raises:
        RequestError: A tool has no name, or its schema is not an object.
    """
    found: dict[str, dict[str, Any]] = {}
    deferred, warnings = [], []
    for i, tool in enumerate(tools):
        if tool.get("type") not in (None, "custom"):
            warnings.append(
                f"The tool {tool.get('name')!r} of type {tool['type']!r} was left out: "
                "this server runs no tools."
            )
            continue
        function = read_function(tool, f"tools.{i}")
        name = function["function"]["name"]
        found[name] = function
        if tool.get("defer_loading") is True and name != chosen:
            deferred.append(name)
    if any("tool_search" in str(tool.get("type")) for tool in tools):
        deferred = []  # nothing here could load them
    for i, tool in enumerate(defined_tools(messages)):
        function = read_function(tool, f"tool_addition.{i}")
        found[function["function"]["name"]] = function
        deferred.append(function["function"]["name"])
    names = set(loaded_names(messages))
    return Tools(
        tuple(each for n, each in found.items() if n in names or n not in deferred),
        tuple(name for name in deferred if name in names),
        {name: definition_text(found[name]) for name in deferred},
        tuple(warnings),
    )


def read_function(tool: Mapping[str, Any], param: str) -> dict[str, Any]:
    """A client's tool as OpenAI's.

    Raises:
        RequestError: It has no name, or its schema is not an object.
    """
    names = {"parameters": "input_schema"}
    wanted = ("name", "description", "parameters", "strict")
    function = {name: tool.get(names.get(name, name)) for name in wanted}
    return function_tool(function, param)


def definition_text(tool: Mapping[str, Any]) -> str:
    """The definition of a tool, for the message that loads it."""
    function = json.dumps(tool["function"], ensure_ascii=False)
    return f"<functions>\n<function>{function}</function>\n</functions>"


def changes(messages: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The blocks of messages that load, add or remove a tool."""
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        for block in content if isinstance(content, list) else ():
            match block:
                case {"type": "tool_addition" | "tool_removal"}:
                    yield block
                case {"type": "tool_result", "content": list(inner)}:
                    yield from (
                        each
                        for each in inner
                        if isinstance(each, Mapping)
                        and each.get("type") == "tool_reference"
                    )


def defined_tools(messages: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The tools that messages define."""
    for block in changes(messages):
        match block:
            case {"type": "tool_addition", "tool": {"definition": Mapping() as tool}}:
                if tool.get("type") in (None, "custom"):
                    yield tool


def loaded_names(messages: Sequence[Any]) -> Iterator[str]:
    """The names of the tools that messages load or add."""
    for block in changes(messages):
        if block["type"] != "tool_removal" and (name := changed_name(block)):
            yield name


def changed_name(block: Mapping[str, Any]) -> str | None:
    """The name of the tool that a block loads, adds or removes, if it has one."""
    match block:
        case {"tool_name": str(name)}:
            return name
        case {"tool": {"name": str(name)}} | {
            "tool": {"definition": {"name": str(name)}}
        }:
            return name
    return None


def change_text(block: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """What the model reads where a message loads, adds or removes a tool.

    Args:
        block: The block.
        texts: As in Tools.
    """
    name = changed_name(block)
    if name is None:
        return ""
    if block["type"] == "tool_removal":
        return f"The tool {name} is not available any more."
    return texts.get(name) or f"The tool {name} is available."


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
