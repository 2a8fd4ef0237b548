"""The grammar of Gemma's calls, whose values are not JSON.

As in grammars.py. Keys come in the order of the alphabet, as the chat template writes
them. Of a string only its possible values are enforced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .grammars import Rules, either, literal, names_of, properties_of
from .schema import Tool, kind_of, resolve

LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
QUOTE = '<|"|>'
KEY = "/[A-Za-z_][A-Za-z0-9_-]*/"


def gemma(rules: Rules, tools: Sequence[Tool], parallel: bool, opened: bool) -> str:
    """<|tool_call>call:NAME{key:value}<tool_call|>"""
    start, end = rules.marker("<|tool_call>"), rules.marker("<tool_call|>")
    bodies = []
    for tool in tools:
        values = _Values(rules, tool.parameters)
        arguments = values.object(tool.parameters)
        bodies.append(f"{literal('call:' + tool.name)} {arguments}")
    rest = rules.add(f"{either(bodies)} {end}")
    more = f"({start} {rest})*" if parallel else ""
    return f"{rest} {more}" if opened else f"{start} {rest} {more}"


class _Values:
    """Rules for values.

    Args:
        rules: Where to.
        root: The schema that references point into.
    """

    def __init__(self, rules: Rules, root: Mapping[str, Any]):
        self._rules, self._root = rules, root
        self._any = ""
        self._references: dict[str, str] = {}

    def value(self, schema: Any) -> str:
        """The body of a rule for a value."""
        if not isinstance(schema, Mapping):
            return self._anything()
        if isinstance(reference := schema.get("$ref"), str):
            return self._reference(reference)
        for key in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(key), list) and choices:
                return either([self.value(choice) for choice in choices])
        if isinstance(parts := schema.get("allOf"), list):
            return self.value(parts[0]) if len(parts) == 1 else self._anything()
        if isinstance(values := schema.get("enum"), list) and values:
            return either([self._constant(value) for value in values])
        if "const" in schema:
            return self._constant(schema["const"])
        types = sorted(kind_of(schema, self._root).types)
        return either([self._of_type(name, schema) for name in types])

    def _of_type(self, name, schema):
        if name == "string":
            return self._string()
        if name == "object":
            return self.object(schema)
        if name == "array":
            item = self._rules.add(self.value(schema.get("items")))
            return f'"[" ({item} ("," {item})*)? "]"'
        limits = {key: schema[key] for key in LIMITS if key in schema}
        is_number = name in ("integer", "number")
        return self._rules.json({"type": name, **(limits if is_number else {})})

    def _string(self, words: str | None = None):
        """A string: any one, or one of the given words."""
        quote = self._rules.marker(QUOTE)
        if words is None:
            return f"{quote} {self._rules.text_until(QUOTE)}"
        return f"{quote} {words} {quote}"

    def _constant(self, value):
        if isinstance(value, str):
            return self._string(literal(value) if value else "")
        if isinstance(value, list | dict):
            return self._anything()
        return literal(json.dumps(value))

    def _reference(self, reference):
        """The rule of what a reference points to, which may refer to itself."""
        if reference not in self._references:
            name = self._references[reference] = self._rules.reserve()
            self._rules.define(name, self.value(resolve(reference, self._root)))
        return self._references[reference]

    def object(self, schema: Mapping[str, Any]) -> str:
        """The body of a rule for an object. One whose schema names properties has no
        others."""
        properties = properties_of(schema)
        if not properties:
            is_open = "properties" not in schema and schema is not self._root
            is_open = schema.get("additionalProperties", is_open)
            return self._fields(self._anything()) if is_open else '"{}"'
        required = names_of(schema.get("required"))
        first = later = '"}"'  # what follows behind no field, and behind one
        for name in sorted(properties, reverse=True):
            value = self.value(properties[name])
            field = self._rules.add(f"{literal(f'{name}:')} {value}")
            if name in required:
                first, later = f"{field} {later}", f'"," {field} {later}'
            else:
                first, later = f"{field} {later} | {first}", f'("," {field})? {later}'
            first, later = self._rules.add(first), self._rules.add(later)
        return f'"{{" {first}'

    def _fields(self, value):
        """Braces with any keys."""
        field = f'{KEY} ":" {value}'
        return f'"{{" ({field} ("," {field})*)? "}}"'

    def _anything(self):
        """The rule of any value."""
        if not self._any:
            name = self._any = self._rules.reserve()
            parts = [self._string(), self._rules.json({"type": "number"})]
            parts += ['"true"', '"false"', '"null"', self._fields(name)]
            parts += [f'"[" ({name} ("," {name})*)? "]"']
            self._rules.define(name, " | ".join(parts))
        return self._any
