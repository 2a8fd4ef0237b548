"""The last rows of a terminal, repainted while text arrives; finished rows scroll up.

Owns rows, the cursor, and which characters a terminal may receive. Does not know
Markdown or answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

from rich.cells import chop_cells
from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

# Control characters other than tab and line feed, and those that reorder a line.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def answer_console(stream: TextIO) -> Console:
    """A console for answers, which is a terminal only where its stream is one.

    FORCE_COLOR does not change that, because a file cannot be repainted.
    """
    live = None if stream.isatty() else False
    return Console(file=stream, highlight=False, force_terminal=live)


def escape_controls(text: str) -> str:
    """Replace the characters that could control a terminal.

    Line ends become line feeds. ESC and other control characters become their visible
    symbols (U+241B), so that an escape sequence is displayed and not obeyed.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(_symbol, text)


def _symbol(match: re.Match) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"


class ControlEscaper:
    """escape_controls for text in pieces, where CR LF may be cut in two."""

    def __init__(self):
        self._held = ""

    def push(self, text: str) -> str:
        """The escaped piece; a CR at its end waits for the next piece."""
        text = self._held + text
        self._held = "\r" if text.endswith("\r") else ""
        return escape_controls(text.removesuffix("\r"))

    def close(self) -> str:
        """The CR that waited, escaped, or an empty string."""
        held, self._held = self._held, ""
        return escape_controls(held)


def render_rows(console: Console, renderable: RenderableType, width: int) -> list[str]:
    """A renderable as rows of at most `width` cells, ready to be written."""
    options = console.options.update(width=width, height=None)
    lines = console.render_lines(renderable, options, pad=False)
    return [encode_row(console, _strip_end(line)) for line in lines]


def encode_row(console: Console, row: Sequence[Segment]) -> str:
    """The text of a row's segments, with escape codes if the console has colours."""
    with console.capture() as capture:
        console.print(Segments(row), end="", soft_wrap=True)
    return capture.get()


def _strip_end(row: Sequence[Segment]) -> list[Segment]:
    """A row without the spaces that rich adds at its end; a copy would have them."""
    row = [segment for segment in row if not segment.control]
    while row and not row[-1].text.rstrip(" "):
        row.pop()
    if row:
        text, style, _ = row[-1]
        row[-1] = Segment(text.rstrip(" "), style)
    return row


def chop(line: str, width: int) -> list[str]:
    """A line cut into rows of at most `width` cells; one empty row if it is empty."""
    return chop_cells(line, width) or [""]


class Region:
    """The rows that may still change; the cursor is at the end of the last one.

    A paint compares the new rows with those on the terminal, and writes from the first
    difference on, in one write.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self.shown: list[str] = [""]

    def paint(self, done: Sequence[str], live: Sequence[str]) -> None:
        """Replace the region's rows.

        Args:
            done: Rows that do not change again; any number, of any length.
            live: The region's new rows, fewer than the screen has.
        """
        rows = [*done, *(live or [""])]
        shown, last = self.shown, len(self.shown) - 1
        same = 0  # the number of leading rows that are on the terminal already
        while same <= last and same < len(rows) and shown[same] == rows[same]:
            same += 1
        if same > last and same == len(rows):
            out = ""
        elif same > last:
            out = "\n" + "\n".join(rows[same:])
        elif same == last and same < len(rows) and rows[same].startswith(shown[same]):
            out = "\n".join([rows[same][len(shown[same]) :], *rows[same + 1 :]])
        else:
            out = self._rewrite(last - same, rows, same)
        self.shown = list(live or [""])
        self.write(out)

    def _rewrite(self, up: int, rows: list[str], same: int) -> str:
        """Output that moves `up` rows higher and writes the rows from `same` on."""
        if same == len(rows):
            # The region shrinks to rows that are there already.
            same, up = same - 1, up + 1
        climb = f"\x1b[{up}A" if up else ""
        return f"{climb}\r\x1b[J" + "\n".join(rows[same:])

    def finish(self) -> None:
        """Keep the rows as they are and move the cursor to a new row."""
        self.paint(self.shown if self.shown != [""] else [], [])

    def write(self, text: str) -> None:
        """Write to the terminal and flush."""
        if text:
            self._console.file.write(text)
            self._console.file.flush()
