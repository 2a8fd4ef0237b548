"""The last rows of a terminal, repainted as text grows; what is done scrolls away.

Knows rows and the cursor; nothing of Markdown or of answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

from rich.cells import chop_cells
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

# Control characters other than tab and line end, and those that reorder a line.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def console_of(stream: TextIO) -> Console:
    """A console for answers: a terminal only where its stream is one, whatever is said
    of colours, for a file takes no repainting."""
    live = None if stream.isatty() else False
    return Console(file=stream, highlight=False, force_terminal=live)


def visible(text: str) -> str:
    """`text` with nothing in it that could steer a terminal.

    Line ends become line feeds; ESC and its like become their pictures (U+241B), so
    that an escape sequence is read and not obeyed.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(_picture, text)


def _picture(found):
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


class Cleaner:
    """`visible` for pieces: a CR LF may be cut in two."""

    def __init__(self):
        self._held = ""

    def push(self, text: str) -> str:
        """The piece, made harmless; a CR at its end waits for the next."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return visible(text.removesuffix("\r"))

    def close(self) -> str:
        """What waited."""
        held, self._held = self._held, ""
        return visible(held)


def rows_of(console: Console, what: RenderableType, width: int) -> list[str]:
    """A renderable as rows of at most `width` cells, ready to be written."""
    options = console.options.update(width=width, height=None)
    lines = console.render_lines(what, options, pad=False)
    return [encode(console, _stripped(line)) for line in lines]


def encode(console: Console, line: Sequence[Segment]) -> str:
    """Segments of one row with the console's colours, or without."""
    with console.capture() as capture:
        console.print(Segments(line), end="", soft_wrap=True)
    return capture.get()


def _stripped(line):
    """A row without the blanks that rich fills it up with; copies stay clean."""
    line = [segment for segment in line if not segment.control]
    while line and not line[-1].text.rstrip(" "):
        line.pop()
    if line:
        text, style, _ = line[-1]
        line[-1] = Segment(text.rstrip(" "), style)
    return line


def chopped(text: str, width: int) -> list[str]:
    """Text without line ends, cut into rows of at most `width` cells."""
    return chop_cells(text, width) or [""]


class Region:
    """The rows that may still change, and the cursor at the end of the last.

    A paint compares the rows with what the terminal shows, and writes from the first
    difference on, in one write.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self.shown: list[str] = [""]

    def paint(self, done: Sequence[str], live: Sequence[str]) -> None:
        """Show rows in place of the region's.

        Args:
            done: Rows that stay for good; any number, of any length.
            live: The region's new rows, fewer than the screen has.
        """
        target = [*done, *(live or [""])]
        shown, last = self.shown, len(self.shown) - 1
        same = 0
        while same <= last and same < len(target) and shown[same] == target[same]:
            same += 1
        if same > last and same == len(target):
            out = ""
        elif same > last:
            out = "\n" + "\n".join(target[same:])
        elif (
            same == last and same < len(target) and target[same].startswith(shown[same])
        ):
            out = "\n".join([target[same][len(shown[same]) :], *target[same + 1 :]])
        else:
            out = self._back(last - same, target, same)
        self.shown = list(live or [""])
        self.write(out)

    def _back(self, up, target, same):
        """From `up` rows higher on, the target's rows; all equal rows stay."""
        if same == len(target):
            # The region shrinks to rows that are there already.
            same, up = same - 1, up + 1
        climb = f"\x1b[{up}A" if up else ""
        return f"{climb}\r\x1b[J" + "\n".join(target[same:])

    def leave(self) -> None:
        """Keep what is shown; what follows begins on a new row."""
        self.paint(self.shown if self.shown != [""] else [], [])

    def write(self, text: str) -> None:
        """Write to the terminal, at once."""
        if text:
            self._console.file.write(text)
            self._console.file.flush()
