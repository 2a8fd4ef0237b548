"""Finds the calls in an answer while it is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .events import BrokenCall, NotACall, ToolEvent, UnfinishedCall
from .formats import ToolFormat, find_format
from .schema import read_tools
from .session import Session


class _Found:
    """Stands for the format that find_format finds."""


FOUND = _Found()


def make_parser(
    tokenizer: Any,
    tools: Sequence[Mapping[str, Any]],
    format: ToolFormat | None | _Found = FOUND,
) -> ToolCallParser:
    """Make a parser for one answer.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        tools: OpenAI's {"type": "function", "function": {"name", "parameters"}}.
        format: The model's, if it is known already. None finds no calls.
    """
    found = find_format(tokenizer) if isinstance(format, _Found) else format
    return ToolCallParser(found, tools)


class ToolCallParser:
    """Finds the calls in the text of an answer.

    The text may be cut anywhere. All of it is delivered: outside of calls as Text,
    inside of a whole call as its name and arguments, and a call that cannot be read as
    CallBroken with its text. Only white space is dropped if nothing else stands between
    a call and the beginning of the text, its end, or another call.

    Args:
        format: The model's; None if it writes no calls.
        tools: As in make_parser.

    Attributes:
        format: As given.
        warnings: Sentences about calls that were delivered although something in them
            was repaired, does not fit the tool's schema, or names no tool.
    """

    def __init__(self, format: ToolFormat | None, tools: Sequence[Mapping[str, Any]]):
        self.format = format
        opening = format.opening if format else ()
        self._session = Session(read_tools(tools), opening)
        self.warnings = self._session.warnings
        self._steps = self._run()
        next(self._steps)

    def push(self, text: str) -> list[ToolEvent]:
        """Add a piece of the answer; return what is certain now."""
        self._session.cursor.push(text)
        self._resume()
        return self._session.take_events()

    def close(self, truncated: bool = False) -> list[ToolEvent]:
        """End the answer; return the rest.

        Args:
            truncated: Whether max_tokens ended it. Otherwise a call of which only the
                closing marker is missing is whole: the marker may have been a token
                that ends the answer.
        """
        self._session.cursor.ended = True
        self._session.truncated = truncated
        self._resume()
        return self._session.take_events()

    def _resume(self):
        next(self._steps, None)

    def _run(self):
        """Read the whole text."""
        session = self._session
        yield  # until the first piece
        if self.format is None:
            yield from self._pass_through()
            return
        if first := self.format.first:
            session.text((yield from self._leading_space()))
            marker = yield from session.cursor.starts(first)
            if marker:
                yield from self._try(marker)
        while marker := (yield from session.text_until(self.format.opening)):
            yield from self._try(marker)
        session.close()

    def _pass_through(self):
        cursor = self._session.cursor
        while True:
            self._session.text(cursor.take(len(cursor.text)))
            if cursor.ended:
                self._session.close()
                return
            yield

    def _leading_space(self):
        cursor = self._session.cursor
        return cursor.take((yield from cursor.space_after(0)))

    def _try(self, marker):
        """Read what a marker opens, or deliver it as text."""
        session, cursor = self._session, self._session.cursor
        cursor.mark()
        cursor.take(len(marker))
        try:
            yield from self.format.read(session, marker)
        except NotACall:
            cursor.rewind(0)
            is_marker = cursor.text.startswith(marker)
            session.text(cursor.take(len(marker) if is_marker else 1))
        except BrokenCall as error:
            unfinished = isinstance(error, UnfinishedCall)
            if unfinished:
                cursor.take(len(cursor.text))
            else:
                yield from self._skip()
            session.broken(error.reason, unfinished)

    def _skip(self):
        """Read on to the end of a broken call."""
        cursor, format = self._session.cursor, self.format
        markers = (*format.closing, *format.opening)
        marker = yield from cursor.until(markers, lambda text: None)
        if marker in format.closing:
            cursor.take(len(marker))
