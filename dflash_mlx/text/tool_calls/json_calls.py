"""Readers of calls whose arguments are a JSON object.

{"name", "arguments"} objects between markers, in a list or alone. Where the name stands
before the object, see named_calls.
"""

from __future__ import annotations

import json

from .cursor import Steps
from .events import BrokenCall, NotACall
from .session import Session
from .values import quoted, to_json

NAME_KEYS = ("name", "function", "tool", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args")
# Keys that may stand beside the name in a call without markers.
OTHER_KEYS = ("type", "id")


class _Object:
    """Reads one object with a name and arguments.

    Args:
        session: Where to.
        bare: Whether there are no markers, so that only an object that calls one of
            the tools is a call.
    """

    def __init__(self, session: Session, bare: bool):
        self._session, self._bare = session, bare
        self._name = self._id = ""
        self._arguments: str | None = None  # read before the name was known
        self._others: list[str] = []  # fields that have no place in a call

    def read(self) -> Steps[None]:
        session = self._session
        try:
            yield from session.reader(out=_nothing).object(self._field)
        except BrokenCall:
            if self._bare and not session.is_open:
                raise NotACall from None
            raise
        if not session.is_open:
            if self._bare and self._arguments is None:
                raise NotACall
            self._start()
            if self._arguments is None and self._others:
                session.warn("the fields beside the name were taken for arguments")
                self._arguments, self._others = f"{{{', '.join(self._others)}}}", []
            session.write(self._arguments or "{}")
        for field in self._others:
            session.warn(f"a field beside the arguments was ignored: {field[:80]}")

    def _start(self):
        if not self._name:
            raise BrokenCall("the call has no name")
        self._session.start(self._name, self._id)

    def _field(self, key) -> Steps[None]:
        cursor = self._session.cursor
        yield from cursor.skip_space()
        char = yield from cursor.need()
        if key in NAME_KEYS and char == "{":
            yield from self._session.reader(out=_nothing).object(self._field)
        elif key in NAME_KEYS and not self._name and char in "\"'":
            self._name = json.loads((yield from self._buffered()))
            if self._bare and self._name not in self._session.tools:
                raise NotACall
        elif key in ARGUMENT_KEYS and not self._has_arguments():
            yield from self._read_arguments(char)
        elif key == "id" and char in "\"'":
            self._id = json.loads((yield from self._buffered()))
        elif self._bare and not self._session.is_open and key not in OTHER_KEYS:
            raise NotACall
        else:
            value = yield from self._buffered()
            if key not in OTHER_KEYS:
                self._others.append(f"{quoted(key)}: {value}")

    def _has_arguments(self):
        return self._arguments is not None or self._session.is_open

    def _read_arguments(self, char):
        if char == "{" and self._name:
            self._start()
            yield from self._session.reader().value()
            return
        text = yield from self._buffered()
        if char in "\"'":  # the object as a string
            text = to_json(json.loads(text)) if len(text) > 2 else "{}"
        text = "{}" if text == "null" else text
        if not text or not text.startswith("{"):
            raise BrokenCall("the arguments are no JSON object")
        self._arguments = text

    def _buffered(self):
        parts: list[str] = []
        yield from self._session.reader(out=parts.append).value()
        return "".join(parts)


def _nothing(text):
    """Drop a piece of JSON."""


def read_objects(
    session: Session,
    closing: tuple[str, ...],
    required: bool = True,
    bare: bool = False,
) -> Steps[bool]:
    """Read objects, one after the other or with "," or ";" between.

    Args:
        session: At the first object's bracket.
        closing: Markers that may follow an object.
        required: As in Session.end_of_call.
        bare: As in _Object.

    Returns:
        Whether a marker closed the last one.
    """
    cursor = session.cursor
    while True:
        yield from _Object(session, bare).read()
        if (yield from session.end_of_call(closing, required)):
            return True
        offset = yield from cursor.space_after(0)
        if (yield from cursor.starts((",", ";"), offset)):
            offset = yield from cursor.space_after(offset + 1)
        if (yield from cursor.starts(("{",), offset)) is None:
            return False
        cursor.mark()
        cursor.take(offset)


def read_list(session: Session) -> Steps[None]:
    """Read a list of objects.

    Args:
        session: At the list's bracket.
    """
    cursor = session.cursor

    def item():
        if (yield from cursor.starts(("{",))) is None:
            raise BrokenCall("an object with a name was expected")
        yield from _Object(session, bare=False).read()
        session.end()
        cursor.mark()

    yield from session.reader(out=_nothing).items("[", "]", item)
    cursor.mark()


def read_hermes(session: Session, marker: str) -> Steps[None]:
    """Read <tool_call>{"name": ..., "arguments": ...}</tool_call>."""
    yield from session.cursor.skip_space()
    closing = "</" + marker[1:]
    yield from read_json_block(session, closing)


def read_json_block(session: Session, closing: str) -> Steps[None]:
    """Read objects or a list of them, and the marker that closes the block.

    Args:
        session: At the first bracket.
        closing: The marker.
    """
    if (yield from session.cursor.starts(("[",))):
        yield from read_list(session)
    elif (yield from session.cursor.starts(("{",))) is None:
        yield from session.cursor.need()
        raise BrokenCall("an object with a name was expected")
    elif (yield from read_objects(session, (closing,))):
        return
    yield from session.rest_of_block(closing)


def read_llama(session: Session, marker: str) -> Steps[None]:
    """Read objects after <|python_tag|>, or those that the whole answer begins with."""
    if marker == "{":
        session.cursor.at -= 1
    yield from session.cursor.skip_space()
    if (yield from session.cursor.starts(("{",))) is None:
        yield from session.cursor.need()
        raise BrokenCall("an object with a name was expected")
    yield from read_objects(
        session, ("<|eom_id|>", "<|eot_id|>"), required=False, bare=marker == "{"
    )
