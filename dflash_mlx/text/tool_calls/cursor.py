"""A text that arrives in pieces, read from the front by generators.

A reader that needs more text yields, and is resumed after the next piece. So a reader
is written as if the whole text were there, and where the pieces are cut cannot change
what it reads. Knows no formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TypeVar

from ..stream import overlap
from .events import UnfinishedCall

T = TypeVar("T")
Steps = Generator[None, None, T]
SPACE = re.compile(r"\s*")


class Cursor:
    """The text, and how far it is read.

    Args:
        text: The first piece.
        ended: Whether no more follows.

    Attributes:
        text: What has arrived and was not read when the last piece came.
        at: The position in `text` of the first character that is not read yet.
        ended: Whether the text is complete.
    """

    def __init__(self, text: str = "", ended: bool = False):
        self.text = text
        self.at = 0
        self.ended = ended
        self._mark = 0
        self._before: list[str] = []  # read since the mark, of earlier `text`s

    def push(self, piece: str) -> None:
        """Add a piece."""
        self._before.append(self.text[self._mark : self.at])
        self.text = self.text[self.at :] + piece
        self.at = self._mark = 0

    def mark(self) -> None:
        """Begin a new stretch of text for `raw`."""
        self._before = []
        self._mark = self.at

    def raw(self) -> str:
        """The text that was read since the mark."""
        return "".join(self._before) + self.text[self._mark : self.at]

    def rewind(self, length: int) -> None:
        """Go back to some characters behind the mark."""
        self.text = self.raw() + self.text[self.at :]
        self._before, self._mark, self.at = [], 0, length

    def take(self, length: int) -> str:
        """Read some characters that have arrived."""
        piece = self.text[self.at : self.at + length]
        self.at += len(piece)
        return piece

    def peek(self, length: int = 1) -> Steps[str]:
        """The next characters, which are fewer only at the end of the text."""
        while len(self.text) - self.at < length and not self.ended:
            yield
        return self.text[self.at : self.at + length]

    def need(self, length: int = 1) -> Steps[str]:
        """The next characters.

        Raises:
            UnfinishedCall: The text ends before.
        """
        found = yield from self.peek(length)
        if len(found) < length:
            raise UnfinishedCall
        return found

    def space_after(self, offset: int) -> Steps[int]:
        """The offset from `at` of the first character at `offset` that is no space."""
        while True:
            found = SPACE.match(self.text, min(self.at + offset, len(self.text)))
            if found.end() < len(self.text) or self.ended:
                return found.end() - self.at
            yield

    def skip_space(self) -> Steps[None]:
        """Read spaces and line breaks."""
        length = yield from self.space_after(0)
        self.at += length  # which the next piece of text has moved

    def starts(self, options: Sequence[str], offset: int = 0) -> Steps[str | None]:
        """The longest of the options that the text has at an offset; None if none."""
        longest = max(map(len, options))
        while True:
            here = self.at + offset
            rest = self.text[here : here + longest]
            undecided = any(
                len(option) > len(rest) and option.startswith(rest)
                for option in options
            )
            if self.ended or not undecided:
                found = [option for option in options if rest.startswith(option)]
                return max(found, key=len) if found else None
            yield

    def follows(self, offset: int, options: Sequence[str]) -> Steps[str | None]:
        """Like `starts`, behind spaces, with "" for the end of the text."""
        offset = yield from self.space_after(offset)
        if self.at + offset == len(self.text):
            return ""
        return (yield from self.starts(options, offset))

    def is_cut(self, options: Sequence[str], offset: int = 0) -> bool:
        """Whether the text ends, behind spaces, where one of the options may begin."""
        rest = self.text[self.at + offset :].lstrip()
        return self.ended and any(option.startswith(rest) for option in options)

    def until(
        self, markers: Sequence[str], out: Callable[[str], None]
    ) -> Steps[str | None]:
        """Read up to a marker, and hand what is certain to `out`.

        Args:
            markers: Texts of which the first one counts, at one place the longest.
            out: Called with pieces of the text before the marker.

        Returns:
            The marker, which is not read; None at the end of the text.
        """
        pattern = alternatives(tuple(markers))
        while True:
            found = pattern.search(self.text, self.at)
            if found and not (yield from self._may_grow(found, markers)):
                if found.start() > self.at:
                    out(self.take(found.start() - self.at))
                return found[0]
            if found:
                continue
            tail = self.text[self.at :]
            held = 0 if self.ended else max(overlap(tail, m) for m in markers)
            if len(tail) > held:
                out(self.take(len(tail) - held))
            if self.ended:
                return None
            yield

    def _may_grow(self, found, markers):
        """Wait for a piece if a longer marker may begin where one was found."""
        rest = self.text[found.start() :]
        longer = any(len(m) > len(rest) and m.startswith(rest) for m in markers)
        if longer and not self.ended:
            yield
            return True
        return False

    def match(self, pattern: re.Pattern, limit: int) -> Steps[re.Match | None]:
        """Match a pattern at `at` once what follows the match has arrived.

        Args:
            pattern: It must match all prefixes of what it matches, or nothing.
            limit: Longest match in characters. A longer one is None.
        """
        while True:
            found = pattern.match(self.text, self.at)
            end = found.end() if found else self.at
            if end < len(self.text) or self.ended or end - self.at > limit:
                return found if found and end - self.at <= limit else None
            yield


@lru_cache(maxsize=256)
def alternatives(markers: tuple[str, ...]) -> re.Pattern:
    """A pattern for any of the markers, the longest at one place."""
    words = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)))


def finish(steps: Steps[T]) -> T:
    """The result of a reader of a complete text.

    Args:
        steps: It reads a cursor that has ended, so it never yields.
    """
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a reader waits for more of a complete text")
