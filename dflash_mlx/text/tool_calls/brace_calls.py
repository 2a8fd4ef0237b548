"""Readers of call:NAME{key:value} (Gemma) and of [name(key=value)] (LFM2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .cursor import Steps
from .events import BrokenCall, UnfinishedCall
from .json_calls import read_json_block
from .session import Session
from .values import PYTHON, Dialect, quoted

PREFIX = "call:"
NAME = re.compile(r"[\w.:/-]*")
LONGEST_NAME = 256


@dataclass(frozen=True)
class Braces:
    """The markers of Gemma's calls.

    Args:
        end: What closes a call.
        dialect: How values are written.
    """

    end: str
    dialect: Dialect

    def read(self, session: Session, marker: str) -> Steps[None]:
        """Read call:NAME{...} and what closes it."""
        cursor = session.cursor
        while True:
            yield from cursor.skip_space()
            yield from session.expect(PREFIX)
            head, _ = yield from session.head(("{",))
            cursor.at -= 1
            session.start(head)
            yield from session.reader(self.dialect).value()
            if (yield from session.end_of_call((self.end,))):
                return
            if not (yield from cursor.follows(0, (PREFIX,))):
                break
            cursor.mark()
        yield from session.rest_of_block(self.end)


class Pythonic:
    """Calls written as a Python list of calls.

    Args:
        end: What closes the list.
    """

    def __init__(self, end: str):
        self._end = end

    def read(self, session: Session, marker: str) -> Steps[None]:
        """Read the list and what closes it."""
        cursor = session.cursor
        yield from cursor.skip_space()
        char = yield from cursor.need()
        if char == "{" or char == "[" and (yield from cursor.follows(1, ("{",))):
            yield from read_json_block(session, self._end)
            return
        if char == "[":
            cursor.take(1)
        while True:
            yield from self._call(session)
            if not (yield from self._another(session)):
                break
        if (yield from cursor.follows(0, ("]",))):
            yield from cursor.skip_space()
            cursor.take(1)
        yield from session.rest_of_block(self._end)

    def _another(self, session):
        """Whether another call follows; if so, the comma is read."""
        if not (yield from session.cursor.follows(0, (",",))):
            return False
        session.cursor.mark()
        yield from session.cursor.skip_space()
        session.cursor.take(1)
        return True

    def _call(self, session):
        """Read name(key=value, ...)."""
        cursor = session.cursor
        yield from cursor.skip_space()
        found = yield from cursor.match(NAME, LONGEST_NAME)
        if not found or not found[0]:
            yield from cursor.need()
            raise BrokenCall("the name of a tool was expected")
        name = cursor.take(len(found[0]))
        yield from cursor.skip_space()
        if (yield from cursor.need()) != "(":
            raise BrokenCall(f"'(' was expected after {name!r}")
        session.start(name)
        reader = session.reader(PYTHON)
        unnamed = iter(session.tool().names())

        def argument():
            key = yield from _keyword(session)
            if key is None:  # an argument without a name: the next declared one
                key = next(unnamed, None)
                if key is None:
                    raise BrokenCall("an argument has no name")
            session.write(f"{quoted(key)}: ")
            yield from reader.value()

        yield from reader.items("{", "}", argument)
        session.end()


KEYWORD = re.compile(r"\w*\s*")


def _keyword(session) -> Steps[str | None]:
    """Read the name and "=" of an argument; None if it has no name."""
    found = yield from session.cursor.match(KEYWORD, LONGEST_NAME)
    length = len(found[0]) if found else 0
    if not length or (yield from session.cursor.starts(("=",), length)) is None:
        if length and session.cursor.is_cut(("=",), length):
            raise UnfinishedCall
        return None
    return session.cursor.take(length + 1)[:-1].strip()
