"""Reads the values that models write, and writes them as JSON while they arrive.

One reader for three ways to write them: JSON, Python (LFM2) and Gemma's braces. What
models often get wrong is repaired: raw line breaks and quotes in strings, single
quotes, backslashes that escape nothing, Python's words, a comma too many. The digits of
a number are kept as they are. Does not know calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from .cursor import Cursor, Steps, finish
from .events import BrokenCall, UnfinishedCall

# A deeper value is refused: each level is a generator, and Python's stack is finite.
DEEPEST = 64
# In characters. A longer word without quotes is no number and no name.
LONGEST_WORD = 4096
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LOOSE_NUMBER = re.compile(
    r"([+-]?)([0-9][0-9_]*)?(?:\.([0-9]*))?([eE][+-]?[0-9]+)?", re.ASCII
)
HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]{1,64}")
WORDS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "True": "true",
    "False": "false",
    "None": "null",
}
PYTHON_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "0": "\0",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "\n": "",
}
HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}


@dataclass(frozen=True)
class Dialect:
    """A way to write values.

    Args:
        quotes: Texts that begin and end a string.
        verbatim: Those of them between which a backslash escapes nothing, and which
            cannot be part of the string.
        python: Whether escapes are Python's and not JSON's.
        bare: Whether words without quotes are strings too.
    """

    quotes: tuple[str, ...]
    verbatim: tuple[str, ...] = ()
    python: bool = False
    bare: bool = False


JSON = Dialect(('"', "'"))
PYTHON = Dialect(('"""', "'''", '"', "'"), python=True, bare=True)
GEMMA = Dialect(('<|"|>', '"'), verbatim=('<|"|>',), bare=True)
FUNCTION_GEMMA = Dialect(("<escape>", '"'), verbatim=("<escape>",), bare=True)


class ValueReader:
    """Reads values at a cursor.

    Args:
        cursor: The text.
        dialect: How values are written.
        out: Called with pieces of JSON.
        warn: Called with what was repaired.
    """

    def __init__(
        self,
        cursor: Cursor,
        dialect: Dialect,
        out: Callable[[str], None],
        warn: Callable[[str], None] = lambda text: None,
    ):
        self.cursor, self.dialect, self.out, self.warn = cursor, dialect, out, warn
        # Characters at which a word without quotes ends.
        self._word = re.compile(
            r"[^,{}\[\]()\"'<]*" if dialect.bare else r"[^\s,:;{}\[\]()\"'<]*"
        )

    def into(self, out: Callable[[str], None]) -> ValueReader:
        """The same reader with another output."""
        return ValueReader(self.cursor, self.dialect, out, self.warn)

    def value(self, depth: int = 0) -> Steps[None]:
        """Read one value.

        Raises:
            BrokenCall: It is no value, or too deep.
            UnfinishedCall: The text ends before it is complete.
        """
        if depth > DEEPEST:
            raise BrokenCall(f"a value is nested more than {DEEPEST} levels deep")
        yield from self.cursor.skip_space()
        char = yield from self.cursor.need()
        if char == "{":
            yield from self.object(lambda key: self._field(key, depth))
        elif char == "[" or char == "(" and self.dialect.python:
            yield from self._array("]" if char == "[" else ")", depth)
        elif quote := (yield from self.cursor.starts(self.dialect.quotes)):
            yield from self.string(quote, ",]})" if self.dialect.python else ",]}")
        else:
            yield from self._literal()

    def _field(self, key, depth):
        self.out(f"{quoted(key)}: ")
        yield from self.value(depth + 1)

    def object(self, field: Callable[[str], Steps[None]]) -> Steps[None]:
        """Read an object.

        Args:
            field: Called with each key; it reads and writes the key's value.
        """

        def item():
            key = yield from self.key(":")
            yield from self._punctuation(":")
            yield from field(key)

        yield from self.items("{", "}", item)

    def items(
        self, opening: str, closing: str, item: Callable[[], Steps[None]]
    ) -> Steps[None]:
        """Read what lies between two brackets, with commas between items.

        Args:
            opening, closing: What is written for the brackets. The next character is
                the opening one, and the closing one is `closing` or the round bracket.
            item: Reads and writes an item.
        """
        end = {"{": "}", "[": "]", "(": ")"}[self.cursor.take(1)]
        self.out(opening)
        first = True
        while True:
            yield from self.cursor.skip_space()
            char = yield from self.cursor.need()
            if not first and char == ",":
                self.cursor.take(1)
                yield from self.cursor.skip_space()
                char = yield from self.cursor.need()
                if char == end:
                    self.warn("a comma before a closing bracket was removed")
            elif not first and char != end:
                raise BrokenCall(f"',' or {end!r} was expected, not {char!r}")
            if char == end:
                self.cursor.take(1)
                self.out(closing)
                return
            if not first:
                self.out(", ")
            first = False
            yield from item()

    def _array(self, end, depth):
        yield from self.items("[", "]", lambda: self.value(depth + 1))

    def key(self, end: str) -> Steps[str]:
        """Read the key of a field, up to the character that follows it."""
        if quote := (yield from self.cursor.starts(self.dialect.quotes)):
            parts: list[str] = []
            yield from self.into(parts.append).string(quote, end)
            return json.loads("".join(parts))
        if self.dialect.bare:
            found = yield from self.cursor.match(KEYS[end], LONGEST_WORD)
            if found and found[0].strip():
                return self.cursor.take(len(found[0])).strip()
        if self.cursor.is_cut(self.dialect.quotes):
            raise UnfinishedCall
        char = yield from self.cursor.need()
        raise BrokenCall(f"a key was expected, not {char!r}")

    def _punctuation(self, wanted):
        yield from self.cursor.skip_space()
        char = yield from self.cursor.need()
        if char != wanted:
            raise BrokenCall(f"{wanted!r} was expected, not {char!r}")
        self.cursor.take(1)

    def string(self, quote: str, closers: str) -> Steps[None]:
        """Read a string.

        Args:
            quote: What it begins and ends with.
            closers: Characters that may follow a string here. A quote before any other
                one is taken for a part of the string.
        """
        cursor = self.cursor
        verbatim = quote in self.dialect.verbatim
        special = [quote] if verbatim else [quote, "\\"]
        cursor.take(len(quote))
        self.out('"')
        while True:
            marker = yield from cursor.until(special, self._text)
            if marker is None:
                raise UnfinishedCall
            if marker == "\\":
                yield from self._escape()
                continue
            if verbatim or (yield from self._is_closed(len(quote), closers)):
                cursor.take(len(quote))
                self.out('"')
                return
            self.warn("a quote inside a string was escaped")
            self._text(cursor.take(1))

    def _is_closed(self, offset, closers):
        """Whether a quote ends its string."""
        offset = yield from self.cursor.space_after(offset)
        next_char = self.cursor.text[self.cursor.at + offset :][:1]
        return not next_char or next_char in closers

    def _text(self, text):
        """Write a piece of a string's text."""
        self.out(quoted(text)[1:-1])

    def _escape(self):
        """Read a backslash and what it escapes."""
        cursor = self.cursor
        char = (yield from cursor.need(2))[1]
        digits = HEX_ESCAPES.get(char, 0)
        if digits and (self.dialect.python or char == "u"):
            text = (yield from cursor.peek(2 + digits))[2:]
            if re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", text):
                cursor.take(2 + digits)
                self._code_point(int(text, 16))
                return
        elif self.dialect.python and char in PYTHON_ESCAPES:
            cursor.take(2)
            self._text(PYTHON_ESCAPES[char])
            return
        elif not self.dialect.python and char in '"\\/bfnrt':
            self.out(cursor.take(2))
            return
        elif char == "'":
            cursor.take(2)
            self._text("'")
            return
        self.warn("a backslash that escapes nothing was kept")
        self._text(cursor.take(1))

    def _code_point(self, number):
        if number > 0x10FFFF:
            raise BrokenCall(f"there is no character {number:#x}")
        # Halves of a surrogate pair cannot be written but as an escape.
        self.out(json.dumps(chr(number))[1:-1])

    def _literal(self):
        """Read a number, a word of JSON or Python, or a string without quotes."""
        found = yield from self.cursor.match(self._word, LONGEST_WORD)
        if self.cursor.ended and found and found.end() == len(self.cursor.text):
            raise UnfinishedCall
        word = found[0].strip() if found else ""
        text = WORDS.get(word) or (number_text(word) if word else None)
        if text is None and word and self.dialect.bare:
            self.warn(f"the text {word!r} without quotes was taken for a string")
            text = quoted(word)
        if text is None:
            if self.cursor.is_cut(self.dialect.quotes):
                raise UnfinishedCall
            char = yield from self.cursor.need()
            raise BrokenCall(f"a value was expected, not {word or char!r}")
        self.cursor.take(len(found[0]))
        self.out(text)


KEYS = {
    ":": re.compile(r"[^:,{}\[\]\"<]*"),
    "=": re.compile(r"[^=,(){}\[\]\"<]*"),
}


def quoted(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


def number_text(text: str) -> str | None:
    """The JSON number that a text means, with the same digits; None if it is none."""
    if NUMBER.fullmatch(text):
        return text
    if HEXADECIMAL.fullmatch(text):
        return str(int(text, 16))
    found = LOOSE_NUMBER.fullmatch(text)
    if not found or not (found[2] or found[3]):
        return None
    sign, whole, part, exponent = found.groups(default="")
    whole = whole.replace("_", "").lstrip("0") or "0"
    minus = "-" if sign == "-" else ""
    return f"{minus}{whole}{'.' + part if part else ''}{exponent}"


def integer_text(text: str) -> str | None:
    """The JSON integer that a text means; None if it is none."""
    number = number_text(text)
    if number is None or number.lstrip("-").isdigit():
        return number
    try:
        value = Decimal(number)
    except InvalidOperation:
        return None
    if value.adjusted() > 400 or value != value.to_integral_value():
        return None
    return format(value.to_integral_value(), "f")


def to_json(text: str, warn: Callable[[str], None] = lambda text: None) -> str | None:
    """A whole text as JSON; None if it is not one value.

    Args:
        text: JSON, with what is repaired here.
        warn: Called with what was repaired.
    """
    cursor, parts = Cursor(text, ended=True), []
    # A literal ends where something else follows.
    cursor.push("\n")
    try:
        finish(ValueReader(cursor, JSON, parts.append, warn).value())
    except BrokenCall:
        return None
    finish(cursor.skip_space())
    return "".join(parts) if cursor.at == len(cursor.text) else None
