"""Grammars of calls, for answers that must be calls or whose calls must fit a schema.

Writes Lark in llguidance's variant, which compiles it (see text/grammar.py). A function
here is for one format. What a model may choose is as narrow as its chat template writes
calls; the parser accepts more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .schema import Tool, kind_of

# White space inside JSON; the bound stops a model that writes nothing else.
WHITE_SPACE = r"[ \t\r\n]{1,64}"
# Any text. A special token is none.
TEXT = r"/(?s:.*)/"


class Rules:
    """The rules of one grammar.

    Args:
        special: Markers that are tokens of their own. Others are written as text.
    """

    def __init__(self, special: Collection[str]):
        self._special = special
        self._rules: dict[str, str] = {}

    def add(self, body: str, options: str = "") -> str:
        """Add a rule; return its name."""
        name = self.reserve()
        self._rules[name] = f"{name}{options}: {body}"
        return name

    def reserve(self) -> str:
        """The name of a rule that `define` adds, for rules that refer to themselves."""
        name = f"r{len(self._rules)}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """Add a rule whose name was reserved."""
        self._rules[name] = f"{name}: {body}"

    def marker(self, text: str) -> str:
        """A marker in a rule."""
        return text if text in self._special else literal(text)

    def text_until(self, end: str) -> str:
        """A body for any text, and what ends it."""
        if end in self._special:
            return f"{TEXT} {end}"
        return self.add(TEXT, f"[suffix={literal(end)}]")

    def json(self, schema: Any) -> str:
        """A rule for a JSON value."""
        schema = dict(schema) if isinstance(schema, Mapping) else {}
        schema["x-guidance"] = {"whitespace_pattern": WHITE_SPACE}
        return self.add(f"%json {json.dumps(schema)}")

    def text(self, start: str) -> str:
        """The grammar.

        Args:
            start: The body of its first rule.
        """
        return "\n".join([f"start: {start}", *self._rules.values()]) + "\n"


def literal(text: str) -> str:
    """A text in a rule."""
    return json.dumps(text)


def either(parts: Sequence[str]) -> str:
    """One of several bodies."""
    return f"({' | '.join(parts)})"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, an object; an empty one if it has none."""
    if not tool.parameters:
        return {"type": "object", "additionalProperties": False}
    return {"type": "object", **tool.parameters}


def hermes(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """<tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>"""
    start, end = rules.marker("<tool_call>"), rules.marker("</tool_call>")
    bodies = [
        literal(f'\n{{"name": {json.dumps(tool.name)}, "arguments": ')
        + f" {rules.json(arguments_schema(tool))} "
        + literal("}\n")
        for tool in tools
    ]
    rest = rules.add(f"{either(bodies)} {end}")
    more = f'("\\n" {start} {rest})*' if parallel else ""
    return f"{rest} {more}" if opened else f"{start} {rest} {more}"


def llama(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """{"name": ..., "parameters": ...}, also behind <|python_tag|>."""
    bodies = [
        literal(f'{{"name": {json.dumps(tool.name)}, "parameters": ')
        + f" {rules.json(arguments_schema(tool))} "
        + literal("}")
        for tool in tools
    ]
    call = rules.add(either(bodies))
    return f'{call} ("; " {call})*' if parallel else call


def kimi(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """A section of calls, each with an id that holds the name and a number."""
    marker = rules.marker
    head = marker("<|tool_call_argument_begin|>")
    bodies = [
        f"{literal(f'functions.{tool.name}:')} /[0-9]{{1,3}}/ {head} "
        f"{rules.json(arguments_schema(tool))}"
        for tool in tools
    ]
    call = rules.add(
        f"{marker('<|tool_call_begin|>')} {either(bodies)} "
        f"{marker('<|tool_call_end|>')}"
    )
    calls = f"{call}{'+' if parallel else ''} {marker('<|tool_calls_section_end|>')}"
    start = marker("<|tool_calls_section_begin|>")
    return calls if opened else f"{start} {calls}"


def harmony(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """A message to functions.NAME on the channel commentary.

    <|call|> is not demanded, since it may end the answer: llguidance does not let a
    token that does so be a part of it. Behind " to=functions." the channel may follow.
    """
    marker = rules.marker
    channel, message = marker("<|channel|>"), marker("<|message|>")
    start, end = f'{marker("<|start|>")} "assistant"', marker("<|call|>")
    json_type = f'" " {marker("<|constrain|>")} "json"'
    before = f'{channel} "commentary"'

    def messages(header):
        bodies = [
            f"{literal(tool.name)} {header} {rules.json(arguments_schema(tool))}"
            for tool in tools
        ]
        return either(bodies)

    call = f'{before} " to=functions." {messages(f"{json_type} {message}")}'
    call = rules.add(call)
    more = f"({end} {start} {call})* {end}?" if parallel else f"{end}?"
    if opened:
        return f"{messages(f'({before})? ({json_type})? {message}')} {more}"
    return f"({start})? {call} {more}"


def qwen(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """<tool_call> with a function and its parameters between tags.

    Parameters come in the schema's order. Of a string between tags, only its possible
    values are enforced, not a pattern or a format.
    """
    start, end = rules.marker("<tool_call>"), rules.marker("</tool_call>")
    bodies = []
    for tool in tools:
        parts = [literal(f"\n<function={tool.name}>\n")]
        required = names_of(tool.parameters.get("required"))
        for name, schema in properties_of(tool.parameters).items():
            key = literal(f"<parameter={name}>")
            parameter = f"{key} {_qwen_value(rules, schema, tool.parameters)}"
            parts.append(parameter if name in required else f"({parameter})?")
        bodies.append(" ".join([*parts, literal("</function>\n")]))
    rest = rules.add(f"{either(bodies)} {end}")
    more = f'("\\n" {start} {rest})*' if parallel else ""
    return f"{rest} {more}" if opened else f"{start} {rest} {more}"


def _qwen_value(rules, schema, root):
    """A value, with the line breaks around it and the tag that ends it."""
    end = "\n</parameter>\n"
    kind = kind_of(schema, root)
    if kind.is_string and kind.words:
        words = either([literal(f"\n{word}") for word in sorted(kind.words)])
        return f"{words} {literal(end)}"
    if "string" in kind.types:  # an empty one may have one line break only
        return rules.add(r"/(\n(?s:.*))?/", f"[suffix={literal(end)}]")
    value = rules.json(with_definitions(schema, root))
    return f'"\\n" {value} {literal(end)}'


def properties_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties of an object's schema."""
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def names_of(required: Any) -> list[str]:
    """The names of required properties."""
    return required if isinstance(required, list) else []


def with_definitions(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a schema, with what its references point to."""
    found = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**found, **schema} if isinstance(schema, Mapping) else found
