"""The tools of a Responses request, as functions that the model is offered.

Owns custom tools, groups of tools and their names. Does not run tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from .openai import function_tool

# The parameter of the function that stands for a custom tool.
INPUT = "input"


@dataclass(frozen=True)
class Route:
    """How the client knows a function that the model calls.

    Args:
        name: The tool's name.
        namespace: The group it belongs to, or None.
        custom: Its input is plain text, not JSON.
    """

    name: str
    namespace: str | None = None
    custom: bool = False

    def fields(self) -> dict[str, str]:
        """The fields of a call's item that name the tool."""
        group = {} if self.namespace is None else {"namespace": self.namespace}
        return {"name": self.name, **group}


@dataclass
class Tools:
    """The tools of a request.

    Attributes:
        functions: OpenAI's {"type": "function", "function": {...}} objects.
        routes: What each of them stands for, by the function's name.
        offered: The request's own objects, without those that were left out.
        warnings: What was left out, a sentence each.
    """

    functions: list[dict[str, Any]] = field(default_factory=list)
    routes: dict[str, Route] = field(default_factory=dict)
    offered: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def flat_name(name: str, namespace: str | None) -> str:
    """The name under which the model sees a tool, e.g. "files__read"."""
    if namespace is None:
        return name
    return f"{namespace.rstrip('_')}__{name.lstrip('_')}"


def read_tools(tools: Sequence[Any]) -> Tools:
    """The tools of a request. Those of other types than function, custom and namespace
    are left out.

    Raises:
        RequestError: One has no name, or parameters that are not an object.
    """
    found = Tools()
    for i, tool in enumerate(tools):
        param = f"tools.{i}"
        if not isinstance(tool, Mapping):
            raise RequestError(f"{param} must be an object.", param=param)
        if tool.get("type") == "namespace":
            _add_group(found, tool, param)
        else:
            _add_tool(found, tool, param)
    return found


def _add_group(found, tool, param):
    namespace, inner = tool.get("name"), tool.get("tools") or []
    if not isinstance(namespace, str) or not isinstance(inner, list):
        raise RequestError(f"{param} must have a name and tools.", param=param)
    kept: list[dict[str, Any]] = []
    for i, each in enumerate(inner):
        name = f"{param}.tools.{i}"
        if not isinstance(each, Mapping):
            raise RequestError(f"{name} must be an object.", param=name)
        if _add_function(found, each, name, namespace):
            kept.append(echo_tool(each))
    if kept:
        description = tool.get("description") or ""
        found.offered.append({**tool, "description": description, "tools": kept})


def _add_tool(found, tool, param):
    if _add_function(found, tool, param, None):
        found.offered.append(echo_tool(tool))


def _add_function(found, tool, param, namespace) -> bool:
    """Add a function or custom tool; return False if it was left out."""
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        found.warnings.append(
            f"{param} of type {kind!r} was left out: this server runs no tools."
        )
        return False
    named = {"name": tool.get("name"), "description": tool.get("description")}
    if kind == "custom":
        function = named | custom_function(tool)
    else:
        more = ("parameters", "strict")
        function = named | {name: tool.get(name) for name in more}
    entry = function_tool(function, param)
    route = Route(entry["function"]["name"], namespace, kind == "custom")
    name = flat_name(route.name, namespace)
    if name in found.routes:
        found.warnings.append(f"{param} was left out: another tool is named {name!r}.")
        return False
    entry["function"]["name"] = name
    found.functions.append(entry)
    found.routes[name] = route
    return True


def custom_function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Description and parameters of the function that stands for a custom tool."""
    about = "The tool's input as plain text."
    match tool.get("format"):
        case {"type": "grammar", "definition": str(definition), "syntax": syntax}:
            about = f"The tool's input. It must match this {syntax} grammar:"
            about = f"{about}\n{definition}"
    return {
        "parameters": {
            "type": "object",
            "properties": {INPUT: {"type": "string", "description": about}},
            "required": [INPUT],
        }
    }


def echo_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as an answer repeats it."""
    if tool["type"] == "custom":
        return dict(tool)
    return {"parameters": None, "strict": None, **tool}
