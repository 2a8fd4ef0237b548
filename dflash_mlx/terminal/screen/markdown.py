"""Renders Markdown on a terminal while it arrives; finished blocks are printed once.

Owns which part of the text is settled, so that later text cannot change it. The block
under way is painted in a region that is never taller than the screen. Does not know
how a block looks (blocks.py) or how rows reach the terminal (region.py).
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from .blocks import Block, markdown_rows, top_level_blocks
from .code_block import FencedCode, find_open_fence
from .region import ControlEscaper, Region

# Minimum seconds between two paints, and the maximum share of time spent painting.
REFRESH = 0.04
MAX_SHARE = 0.1
MIN_WIDTH = 10
# A line that may be all marker. It is not painted until more text arrives, because
# for a moment it could turn the paragraph above it into a heading.
MARKER = re.compile(r"[ \t]*([-=*_+#>|`~: \t]+|\d+[.)]?)[ \t]*")
WIDE = "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff01-\uff60]"
# Where a long paragraph may be cut: before a word that does not begin a block.
CUT = re.compile(rf"(?<=\s)(?!\d+[.)])(?=\w)|(?<={WIDE})(?={WIDE})")
# Marks that come in pairs.
PAIRED_MARKS = [
    re.compile(mark)
    for mark in (r"\*\*", r"(?<!\*)\*(?![*\s])|(?<![*\s])\*(?!\*)", "__", "~~", "`")
]


class MarkdownStream:
    """Renders Markdown as it arrives.

    Args:
        console: A terminal.
        drafts: Colour the text of drafted tokens.
        refresh: Minimum seconds between two paints; 0 paints every piece.
        clock: The time in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        drafts: bool = False,
        refresh: float = REFRESH,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console, self._refresh, self._clock = console, refresh, clock
        self._region = Region(console)
        self._escaper = ControlEscaper()
        self._size = console.size
        self._tail = ""  # the source that is not settled
        self._painted = ""  # the part of the tail that the region shows
        self._painted_whole = True  # whether the region shows that part's first row
        self._code: FencedCode | None = None
        self._gap = False  # whether a blank row precedes the next block
        self._relabelled = False  # whether the next fence continues a painted one
        self._due = 0.0
        # For each character of the whole text, whether it was drafted. It ends where
        # the tail ends, so the tail's characters are counted from there.
        self._flags = bytearray() if drafts else None

    def write(self, text: str, drafted: bool = False) -> None:
        """Add a piece, which may end anywhere."""
        self._add(self._escaper.push(text), drafted)
        start = self._clock()
        if start >= self._due:
            self._paint()
            end = self._clock()
            pause = (end - start) / MAX_SHARE if self._refresh else 0.0
            self._due = end + max(self._refresh, pause)

    def close(self) -> None:
        """Settle the rest and move the cursor to a new row."""
        self._add(self._escaper.close())
        if self._tail and not self._tail.endswith("\n"):
            self._add("\n")
        self._check_size()
        done = self._settle()
        lines = self._tail.split("\n")
        for block in top_level_blocks(self._tail):
            done += self._settled_rows(block, lines)
        self._tail, self._painted, self._code = "", "", None
        self._region.paint(done, [])
        self._region.finish()

    def _add(self, text: str, drafted: bool = False) -> None:
        self._tail += text
        if self._flags is not None:
            self._flags += bytes([drafted]) * len(text)

    def _drafted(self, offset: int, length: int) -> bytes | None:
        """The flags of `length` characters of the tail from `offset` on."""
        if self._flags is None:
            return None
        begin = len(self._flags) - len(self._tail) + offset
        padding = bytes(max(0, -begin))  # text that was added after a resize
        return (padding + self._flags[max(0, begin) : begin + length]).ljust(
            length, b"\0"
        )

    def _rows(self, source: str, offset: int = 0) -> list[str]:
        """The rows of a part of the tail, which begins at `offset`."""
        flags = self._drafted(offset, len(source))
        return markdown_rows(self._console, source, self._width, flags)

    @property
    def _width(self) -> int:
        # The last column stays free: terminals differ in what follows a full row.
        return max(self._console.width - 1, MIN_WIDTH)

    @property
    def _height(self) -> int:
        return max(self._console.height - 1, 2)

    def _paint(self) -> None:
        self._check_size()
        done = self._settle()
        shown, rows = self._live()
        while len(rows) > self._height and (parts := self._split(shown, rows)):
            head, rest = parts
            done += self._gap_rows() + self._rows(head)
            self._tail = rest
            self._gap = False
            shown, rows = self._live()
        self._painted_whole = len(rows) <= self._height
        self._painted = shown
        self._region.paint(done, last_rows(rows, self._height))

    def _live(self) -> tuple[str, list[str]]:
        """The part of the tail to paint, and its rows."""
        if self._code:
            return self._tail, self._code.preview(self._tail, self._width)
        head, _, last = self._tail.rpartition("\n")
        shown = head if MARKER.fullmatch(last) else self._tail
        if not shown.strip():
            return shown, []
        return shown, self._gap_rows() + self._rows(shown)

    def _settle(self) -> list[str]:
        """Remove the settled source from the tail, and return its rows."""
        done: list[str] = []
        while True:
            if self._code:
                done += self._settle_code()
                if self._code:
                    return done
            rows, fenced = self._settle_blocks()
            done += rows
            if not fenced:
                return done

    def _settle_code(self) -> list[str]:
        """Settle the complete lines of the open fenced block, up to its end."""
        *lines, rest = self._tail.split("\n")
        rows, at = [], 0
        for i, line in enumerate(lines):
            if self._code.is_closed_by(line):
                self._code, rest = None, "\n".join([*lines[i + 1 :], rest])
                break
            flags = self._drafted(at, len(line))
            rows += self._code.add_line(self._console, line, flags)
            at += len(line) + 1
        self._tail = rest
        return rows

    def _settle_blocks(self) -> tuple[list[str], bool]:
        """Settle the blocks that another one follows; whether a fence has opened."""
        head, line_end, rest = self._tail.rpartition("\n")
        lines = (head + line_end).split("\n")
        found = top_level_blocks(head + line_end)
        done: list[str] = []
        for block in found:
            if block.kind == "fence":
                done += self._gap_rows()
                self._gap = True
                self._code = FencedCode(block.token, lines[block.start])
                if not self._relabelled:
                    done += self._code.label(self._console)
                self._relabelled = False
                self._tail = "\n".join(lines[block.start + 1 :]) + rest
                return done, True
            if block is found[-1]:
                self._tail = "\n".join(lines[block.start :]) + rest
                return done, False
            done += self._settled_rows(block, lines)
        self._tail = rest
        return done, False

    def _settled_rows(self, block: Block, lines: Sequence[str]) -> list[str]:
        source = "\n".join(lines[block.start : block.end])
        offset = sum(len(line) + 1 for line in lines[: block.start])
        rows = self._gap_rows() + self._rows(source, offset)
        self._gap = True
        return rows

    def _gap_rows(self) -> list[str]:
        return [""] * self._gap

    def _split(self, shown: str, rows: list[str]) -> tuple[str, str] | None:
        """Split a block that is taller than the screen.

        Returns:
            The source to settle and the rest; None if the block cannot be split.
        """
        found = top_level_blocks(shown)
        if self._code or not found:
            return None
        lines = self._tail.split("\n")
        if len(found[0].items) > 1:
            at = found[0].items[-1]
            rest = renumber(found[0], "\n".join(lines[at:]))
            return ("\n".join(lines[:at]), rest) if rest else None
        if found[0].kind == "paragraph_open" and len(found) == 1:
            return self._split_paragraph(shown, rows[self._gap :])
        return None

    def _split_paragraph(self, shown: str, rows: list[str]) -> tuple[str, str] | None:
        """Cut between two rows, where both parts still render to the same rows."""
        limit = closed_length(shown)
        cuts = [match.start() for match in CUT.finditer(shown, 0, limit)]

        def height(at):
            return len(markdown_rows(self._console, shown[:at], self._width))

        for wanted in range(len(rows) - 2, 0, -1):
            i = bisect_right(cuts, wanted, key=height)
            if i == 0:
                return None
            head, rest = shown[: cuts[i - 1]], shown[cuts[i - 1] :]
            if self._rows(head) + self._rows(rest, len(head)) == rows:
                return head, rest + self._tail[len(shown) :]
        return None

    def _check_size(self) -> None:
        """After a resize that moves the painted rows, keep them: their place is not
        known then. Rows that fit into the new width stay where they are."""
        size, before = self._console.size, self._size
        self._size = size
        shown = self._region.shown
        if size == before or shown == [""]:
            return
        fits = len(shown) <= self._height and all(
            Text.from_ansi(row).cell_len <= self._width for row in shown
        )
        if fits:
            return
        self._region.finish()
        if not self._painted_whole:
            return  # its first rows were never painted, so it is printed when settled
        self._tail = self._tail_after(self._painted)
        self._painted, self._gap = "", False

    def _tail_after(self, shown: str) -> str:
        """The tail without `shown`, which stays on the screen."""
        rest = self._tail[len(shown) :]
        if self._code:
            self._code.count_blank_rows()
            return rest.removeprefix("\n")
        if fence := find_open_fence(shown):
            opening = fence.markup + fence.info
            self._relabelled = fence.map[0] != shown.count("\n")
            if fence.map[0] == shown.count("\n"):  # that line may be incomplete
                return opening + rest
            return opening + "\n" + rest.removeprefix("\n")
        found = top_level_blocks(shown)
        if found and found[-1].kind == "table_open":
            # Further rows need the head again, and an incomplete row is repeated.
            lines = shown.split("\n")
            start = found[-1].start
            return "\n".join([*lines[start : start + 2], lines[-1] + rest])
        return rest.lstrip(" \t")


def renumber(block: Block, rest: str) -> str | None:
    """A list's last item as the first item of a list, with the number it has now.

    Args:
        block: The list.
        rest: The source from the last item on.

    Returns:
        The source; None if the number has more digits than the written one, because
        lines indented below the item would no longer belong to it.
    """
    written = re.match(r" *(\d+)", rest)
    if block.kind == "bullet_list_open" or written is None:
        return rest
    number = str(int(block.token.attrs.get("start", 1)) + len(block.items) - 1)
    if len(number) != len(written[1]):
        return None
    return rest[: written.start(1)] + number + rest[written.end(1) :]


def closed_length(text: str) -> int:
    """The length of a paragraph's beginning in which no markup is left open."""
    ends = [len(text)]
    for mark in PAIRED_MARKS:
        found = [match.start() for match in mark.finditer(text)]
        if len(found) % 2:
            ends.append(found[-1])
    if (opened := text.rfind("[")) > text.rfind("]"):
        ends.append(opened)
    return min(ends)


def last_rows(rows: list[str], height: int) -> list[str]:
    """The last rows that fit; they scroll by half a screen, to repaint few of them."""
    if len(rows) <= height:
        return rows
    step = max(height // 2, 1)
    skipped = -(-(len(rows) - height) // step) * step
    return rows[skipped:]
