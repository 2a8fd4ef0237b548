"""What a tool's schema says of its arguments, for formats that write them as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .values import NUMBER, integer_text, number_text, quoted, to_json

TYPES = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
# Names that tools are declared with although JSON Schema does not know them.
ALIASES = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
    "none": "null",
}
# References that are followed one after the other, and levels of anyOf and allOf.
DEEPEST = 20
INDEX = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Kind:
    """The types that a schema allows.

    Args:
        types: Names of JSON Schema's types; all of them if the schema does not say.
        words: Strings that the schema names as possible values.
    """

    types: frozenset[str] = TYPES
    words: frozenset[str] = frozenset()

    @property
    def is_string(self) -> bool:
        """Whether nothing but a string is allowed."""
        return self.types == {"string"}


STRING = Kind(frozenset({"string"}))
ANY = Kind()
NOT_STRING = Kind(TYPES - {"string"})


@dataclass(frozen=True)
class Tool:
    """A tool that the model may call.

    Args:
        name: Its name.
        parameters: The JSON Schema of its arguments.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The declared parameters, in order."""
        properties = self.parameters.get("properties")
        return list(properties) if isinstance(properties, Mapping) else []

    def kind(self, parameter: str) -> Kind:
        """What a parameter may be."""
        properties = self.parameters.get("properties")
        if isinstance(properties, Mapping) and parameter in properties:
            return kind_of(properties[parameter], self.parameters)
        return kind_of(self.parameters.get("additionalProperties"), self.parameters)


def read_tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, Tool]:
    """Tools by name.

    Args:
        tools: As in a request: {"type": "function", "function": {"name", ...}}. What
            has no name is left out.
    """
    found = {}
    for tool in tools:
        function = tool.get("function")
        function = function if isinstance(function, Mapping) else tool
        name, parameters = function.get("name"), function.get("parameters")
        if isinstance(name, str):
            is_schema = isinstance(parameters, Mapping)
            found[name] = Tool(name, parameters if is_schema else {})
    return found


def kind_of(
    schema: Any,
    root: Mapping[str, Any],
    depth: int = 0,
    known: dict[str, Kind] | None = None,
) -> Kind:
    """What a schema allows.

    Args:
        schema: A JSON Schema. What is none allows everything.
        root: The schema that its references point into.
        depth: The number of schemas around it.
        known: What references allow that were met before. One inside itself allows
            everything, and none is followed twice, which could take for ever.
    """
    known = {} if known is None else known
    if not isinstance(schema, Mapping) or depth > DEEPEST:
        return ANY
    if isinstance(reference := schema.get("$ref"), str):
        if reference not in known:
            known[reference] = ANY
            target = resolve(reference, root)
            known[reference] = kind_of(target, root, depth + 1, known)
        return known[reference]
    kind = replace(_named(schema), words=_words(schema))
    for key in ("anyOf", "oneOf"):
        if isinstance(choices := schema.get(key), list) and choices:
            kinds = [kind_of(choice, root, depth + 1, known) for choice in choices]
            kind = _both(
                kind,
                Kind(
                    frozenset().union(*(k.types for k in kinds)),
                    frozenset().union(*(k.words for k in kinds)),
                ),
            )
    if isinstance(parts := schema.get("allOf"), list):
        for part in parts:
            kind = _both(kind, kind_of(part, root, depth + 1, known))
    if schema.get("nullable") is True:
        kind = replace(kind, types=kind.types | {"null"})
    return kind


def _both(one, other):
    """The kind that two schemas allow together."""
    return Kind(one.types & other.types or one.types, one.words | other.words)


def _named(schema):
    """What the type of a schema, or its values, say."""
    named = schema.get("type")
    names = [named] if isinstance(named, str) else named
    if isinstance(names, list) and names:
        found = {ALIASES.get(str(n).lower(), str(n).lower()) for n in names}
        return Kind(frozenset(found)) if found <= TYPES else ANY
    if isinstance(values := schema.get("enum"), list) and values:
        return Kind(frozenset(map(type_of, values)))
    if "const" in schema:
        return Kind(frozenset({type_of(schema["const"])}))
    if "properties" in schema or "additionalProperties" in schema:
        return Kind(frozenset({"object"}))
    if "items" in schema:
        return Kind(frozenset({"array"}))
    return ANY


def _words(schema):
    values = schema.get("enum") if isinstance(schema.get("enum"), list) else []
    values = [*values, schema.get("const")]
    return frozenset(value for value in values if isinstance(value, str))


def type_of(value: Any) -> str:
    """The name of a JSON value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for name, kind in (("string", str), ("integer", int), ("number", float)):
        if isinstance(value, kind):
            return name
    return "array" if isinstance(value, list) else "object"


def resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """The schema that a reference such as "#/$defs/Place" names, or None."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and INDEX.fullmatch(part):
            found = found[int(part)] if int(part) < len(found) else None
        else:
            return None
    return found


def convert(
    text: str, kind: Kind, warn: Callable[[str], None] = lambda text: None
) -> str:
    """A value that a model wrote as text, as JSON.

    A type other than string counts if the text can be read as it. So what a union with
    string holds is a string only if nothing else fits.

    Args:
        text: The value.
        kind: What the schema allows.
        warn: Called if the value does not fit; it is then a JSON string.

    Returns:
        JSON.
    """
    word = text.strip()
    if text in kind.words:
        return quoted(text)
    if "string" in kind.types:
        stated = _unstated(word)
        if kind == ANY or stated is None:
            return quoted(text) if stated is None else stated
    for name, read in READERS:
        if name in kind.types and (found := read(word)) is not None:
            return found
    if "string" not in kind.types:
        types = " or ".join(sorted(kind.types))
        warn(f"the value {text[:40]!r} is not of type {types}")
    return quoted(text)


def _unstated(word):
    """A value whose type no schema states: strict JSON, or None for a string."""
    if word in ("true", "false", "null") or NUMBER.fullmatch(word):
        return word
    return to_json(word) if word[:1] in ("{", "[") else None


def _null(word):
    return "null" if word in ("null", "None") else None


def _boolean(word):
    return word.lower() if word.lower() in ("true", "false") else None


def _object(word):
    return to_json(word) if word.startswith("{") else None


def _array(word):
    return to_json(word) if word.startswith("[") else None


READERS: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("null", _null),
    ("boolean", _boolean),
    ("integer", integer_text),
    ("number", number_text),
    ("object", _object),
    ("array", _array),
)
