"""What the readers of all formats share: the text, the tools, and the events.

Owns the numbers of calls, the pieces of their arguments, and white space next to calls.
Knows no formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..stream import overlap
from .cursor import Cursor, Steps, alternatives
from .events import (
    BrokenCall,
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Text,
    ToolEvent,
    UnfinishedCall,
)
from .schema import Tool
from .values import JSON, Dialect, ValueReader


class Session:
    """The parsing of one answer.

    Args:
        tools: By name.
        opening: Texts that open a call.

    Attributes:
        cursor: The text.
        warnings: Sentences about what was repaired or does not fit a schema.
        truncated: Whether max_tokens ended the text.
    """

    def __init__(self, tools: Mapping[str, Tool], opening: Sequence[str] = ()):
        self.tools, self.opening = tools, tuple(opening)
        self.cursor = Cursor()
        self.warnings: list[str] = []
        self.truncated = False
        self._events: list[ToolEvent] = []
        self._index = -1
        self._open: list[str] | None = None  # fragments of the open call
        self._name = ""
        self._space = ""  # white space that is dropped if a call follows
        self._has_text = False  # text since the last call that is not white space

    def take_events(self) -> list[ToolEvent]:
        """The new events, with neighbouring pieces joined."""
        events, self._events = self._events, []
        joined: list[ToolEvent] = []
        parts: list[str] = []
        for i, event in enumerate(events):
            following = events[i + 1] if i + 1 < len(events) else None
            if isinstance(event, Text | CallArguments):
                parts.append(text_of(event))
                if type(following) is type(event):
                    continue
                text, parts = "".join(parts), []
                is_text = isinstance(event, Text)
                event = Text(text) if is_text else CallArguments(event.index, text)
            joined.append(event)
        return joined

    @property
    def is_open(self) -> bool:
        """Whether a call was started and not ended."""
        return self._open is not None

    def warn(self, text: str) -> None:
        """Record a warning about the open call."""
        where = f"call {self._index} ({self._name}): " if self.is_open else ""
        self.warnings.append(where + text)

    def text(self, text: str) -> None:
        """Deliver text of the answer."""
        if not text:
            return
        if not self._has_text:
            kept = text.lstrip()
            self._space += text[: len(text) - len(kept)]
            if not kept:
                return
            text, self._space, self._has_text = self._space + kept, "", True
        self._events.append(Text(text))

    def start(self, name: str, id: str = "") -> None:
        """Begin a call.

        Args:
            name: The tool as the model named it, perhaps with "functions." before.
            id: The model's, or "".

        Raises:
            BrokenCall: The name is empty.
        """
        name = name.strip()
        short = name.removeprefix("functions.")
        name = short if name not in self.tools else name
        if not name:
            raise BrokenCall("the call has no name")
        self._index += 1
        self._open, self._name = [], name
        self._space, self._has_text = "", False
        self._events.append(CallStart(self._index, id, name))
        if name not in self.tools:
            self.warn("there is no tool of this name")

    def write(self, fragment: str) -> None:
        """Deliver a piece of the open call's arguments."""
        if fragment:
            self._open.append(fragment)
            self._events.append(CallArguments(self._index, fragment))

    def end(self) -> None:
        """End the open call."""
        self._events.append(CallEnd(self._index, "".join(self._open)))
        self._open = None

    def broken(self, reason: str, truncated: bool) -> None:
        """Deliver what was read since the mark as a call that is broken."""
        index = self._index if self.is_open else None
        if not self.is_open and self._space:
            self._events.append(Text(self._space))
        self._open, self._space, self._has_text = None, "", False
        raw = self.cursor.raw()
        self._events.append(CallBroken(index, raw, reason, truncated))

    def close(self) -> None:
        """End the text. White space counts only if there was no call."""
        if self._space and self._index < 0:
            self._events.append(Text(self._space))
        self._space = ""

    def reader(
        self, dialect: Dialect = JSON, out: Callable[[str], None] | None = None
    ) -> ValueReader:
        """A reader of values that writes to the open call, or to `out`."""
        return ValueReader(self.cursor, dialect, out or self.write, self.warn)

    def tool(self) -> Tool:
        """The tool of the open call; one without parameters if it is unknown."""
        return self.tools.get(self._name) or Tool(self._name)

    def expect(self, marker: str) -> Steps[None]:
        """Read a marker.

        Raises:
            BrokenCall: Something else follows.
            UnfinishedCall: The text ends before.
        """
        if (yield from self.cursor.starts((marker,))) is None:
            if self.cursor.is_cut((marker,)):
                raise UnfinishedCall
            char = self.cursor.text[self.cursor.at]
            raise BrokenCall(f"{marker!r} was expected, not {char!r}")
        self.cursor.take(len(marker))

    def head(self, markers: Sequence[str], limit: int = 300) -> Steps[tuple[str, str]]:
        """Read a short text of one line up to one of the markers.

        Args:
            markers: None of them is the beginning of another one.
            limit: Most characters, the marker included.

        Returns:
            The text and the marker, which is read too.

        Raises:
            BrokenCall: No marker comes on this line, or not soon.
            UnfinishedCall: The text ends before.
        """
        cursor = self.cursor
        pattern = alternatives(tuple(markers))
        while True:
            window = cursor.text[cursor.at : cursor.at + limit]
            found = pattern.search(window)
            held = 0 if found else max(overlap(window, m) for m in markers)
            text = window[: found.start() if found else len(window) - held]
            if "\n" in text.strip() or (not found and len(window) == limit):
                raise BrokenCall(f"{markers[0]!r} was expected on the same line")
            if found:
                cursor.take(found.end())
                return text, found[0]
            if cursor.ended:
                raise UnfinishedCall
            yield

    def end_of_call(
        self, closing: Sequence[str], required: bool = True
    ) -> Steps[str | None]:
        """End a call whose arguments are complete, at its closing marker.

        Without a marker the call ends too, unless max_tokens ended the text before it:
        a marker may be a token that ends the answer and is not part of the text.

        Args:
            closing: Markers that close the call.
            required: False if the call is complete without a marker.

        Returns:
            The marker, which is read; None if there is none.
        """
        cursor = self.cursor
        yield from cursor.skip_space()
        while (yield from cursor.peek()) in ("}", "]"):
            cursor.take(1)
            self.warn("a closing bracket too many was removed")
            yield from cursor.skip_space()
        marker = yield from cursor.starts(closing)
        if marker is None and required and self.truncated and cursor.is_cut(closing):
            raise UnfinishedCall
        if marker is not None:
            cursor.take(len(marker))
        self.end()
        return marker

    def text_until(self, markers: Sequence[str]) -> Steps[str | None]:
        """Deliver text up to a marker, which is not read; None at the end."""
        return (yield from self.cursor.until(markers, self.text))

    def rest_of_block(
        self, closing: str, inner: Sequence[str] = ()
    ) -> Steps[str | None]:
        """Deliver text after a call, up to what closes the block or opens a call.

        Args:
            closing: The marker that closes the block. It is read.
            inner: Markers that open a call inside the block.

        Returns:
            The one of the inner markers that follows. It is not read.
        """
        markers = (closing, *inner, *self.opening)
        marker = yield from self.cursor.until(markers, self.text)
        if marker == closing:
            self.cursor.take(len(closing))
        return marker if marker in inner else None


def text_of(event: Text | CallArguments) -> str:
    """The text that an event carries."""
    return event.text if isinstance(event, Text) else event.fragment
