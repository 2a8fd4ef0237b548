"""Markdown on a terminal while it comes: what is done is printed once, for good.

Owns which part of a text is settled. The block under way is kept in a region that
never exceeds the screen; blocks before it are never touched again. How a block looks
is page.py's, how rows get to the terminal region.py's.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

from rich.console import Console

from .blocks import Block, blocks, page_rows
from .code_block import Code, open_fence
from .region import Cleaner, Region

# Seconds between two paints; the second bounds the share of time they take.
REFRESH = 0.04
SHARE = 0.1
NARROWEST = 10
# A line that is all marker says nothing until more of it comes; shown, it would make
# the paragraph above a heading for an instant.
MARKER = re.compile(r"[ \t]*([-=*_+#>|`~: \t]+|\d+[.)]?)[ \t]*")
WIDE = "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff01-\uff60]"
# Where a long paragraph may be cut: before a word that begins no block of its own.
CUT = re.compile(rf"(?<=\s)(?!\d+[.)])(?=\w)|(?<={WIDE})(?={WIDE})")

# What comes in pairs.
PAIRED = [
    re.compile(mark)
    for mark in (r"\*\*", r"(?<!\*)\*(?![*\s])|(?<![*\s])\*(?!\*)", "__", "~~", "`")
]


class MarkdownStream:
    """Renders Markdown as it comes.

    Args:
        console: A terminal.
        refresh: Least seconds between two paints; 0 paints every piece.
        clock: Seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        refresh: float = REFRESH,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console, self._refresh, self._clock = console, refresh, clock
        self._region = Region(console)
        self._clean = Cleaner()
        self._size = console.size
        self._tail = ""  # the source that is not settled
        self._painted = ""  # the part of it that the region shows
        self._whole = True  # whether the region shows that part from its beginning
        self._code: Code | None = None
        self._gap = False  # whether a blank row goes before the next block
        self._due = 0.0

    def write(self, text: str) -> None:
        """Add a piece, cut anywhere."""
        self._tail += self._clean.push(text)
        start = self._clock()
        if start >= self._due:
            self._paint()
            end = self._clock()
            pause = (end - start) / SHARE if self._refresh else 0.0
            self._due = end + max(self._refresh, pause)

    def close(self) -> None:
        """Settle what is left; the cursor is on a new row then."""
        self._tail += self._clean.close()
        if self._tail and not self._tail.endswith("\n"):
            self._tail += "\n"
        self._notice_resize()
        done = self._settle()
        for block in blocks(self._tail):
            done += self._rows(block)
        self._tail, self._painted, self._code = "", "", None
        self._region.paint(done, [])
        self._region.leave()

    @property
    def _width(self):
        # The last column stays free: terminals differ in what follows a full row.
        return max(self._console.width - 1, NARROWEST)

    @property
    def _room(self):
        return max(self._console.height - 1, 2)

    def _paint(self):
        self._notice_resize()
        done = self._settle()
        shown, rows = self._under_way()
        while len(rows) > self._room and (parts := self._split(shown, rows)):
            head, self._tail = parts[0], parts[1]
            done += self._lead() + page_rows(self._console, head, self._width)
            self._gap = False
            shown, rows = self._under_way()
        self._whole = len(rows) <= self._room
        self._painted = shown
        self._region.paint(done, window(rows, self._room))

    def _under_way(self):
        """The part of the tail to show, and its rows."""
        if self._code:
            return self._tail, self._code.live(self._tail, self._width)
        head, _, last = self._tail.rpartition("\n")
        shown = head if MARKER.fullmatch(last) else self._tail
        if not shown.strip():
            return shown, []
        return shown, self._lead() + page_rows(self._console, shown, self._width)

    def _settle(self) -> list[str]:
        """Rows that no later text can change; their source leaves the tail."""
        done: list[str] = []
        while True:
            if self._code:
                done += self._take_code()
                if self._code:
                    return done
            rows, fenced = self._take_blocks()
            done += rows
            if not fenced:
                return done

    def _take_code(self):
        """Complete lines of the fenced block under way, up to its end."""
        *lines, rest = self._tail.split("\n")
        rows = []
        for i, line in enumerate(lines):
            if self._code.closes(line):
                self._code, rest = None, "\n".join([*lines[i + 1 :], rest])
                break
            rows += self._code.row(self._console, line)
        self._tail = rest
        return rows

    def _take_blocks(self):
        """Blocks with another one after them, and whether a fenced one begins."""
        head, line_end, rest = self._tail.rpartition("\n")
        lines = (head + line_end).split("\n")
        found = blocks(head + line_end)
        done: list[str] = []
        for block in found:
            if block.kind == "fence":
                done += self._lead()
                self._gap = True
                self._code = Code(block.token, lines[block.start])
                self._tail = "\n".join(lines[block.start + 1 :]) + rest
                return done, True
            if block is found[-1]:
                self._tail = "\n".join(lines[block.start :]) + rest
                return done, False
            done += self._rows(block, lines)
        self._tail = rest
        return done, False

    def _rows(self, block, lines: Sequence[str] | None = None):
        """A settled block's rows."""
        lines = self._tail.split("\n") if lines is None else lines
        source = "\n".join(lines[block.start : block.end])
        rows = self._lead() + page_rows(self._console, source, self._width)
        self._gap = True
        return rows

    def _lead(self):
        return [""] * self._gap

    def _split(self, shown, rows):
        """A block that outgrows the screen in two, (settled source, the rest)."""
        found = blocks(shown)
        if self._code or not found:
            return None
        lines = self._tail.split("\n")
        if len(found[0].parts) > 1:
            at = found[0].parts[-1]
            rest = renumbered(found[0], "\n".join(lines[at:]))
            return rest and ("\n".join(lines[:at]), rest)
        if found[0].kind == "paragraph_open" and len(found) == 1:
            return self._split_paragraph(shown, rows[self._gap :])
        return None

    def _split_paragraph(self, shown, rows):
        """Cut where two rows meet, and where that changes neither."""
        limit = closed(shown)
        cuts = [found.start() for found in CUT.finditer(shown, 0, limit)]

        def height(at):
            return len(page_rows(self._console, shown[:at], self._width))

        for want in range(len(rows) - 2, 0, -1):
            i = bisect_right(cuts, want, key=height)
            if i == 0:
                return None
            head, rest = shown[: cuts[i - 1]], shown[cuts[i - 1] :]
            both = [
                page_rows(self._console, part, self._width) for part in (head, rest)
            ]
            if both[0] + both[1] == rows:
                return head, rest + self._tail[len(shown) :]
        return None

    def _notice_resize(self):
        """After a resize what is shown stays: where its rows are now is not known."""
        size, before = self._console.size, self._size
        self._size = size
        tall = len(self._region.shown) > self._room
        if (size.width == before.width and not tall) or self._region.shown == [""]:
            return
        self._region.leave()
        if not self._whole:
            return  # its beginning was never shown, so it is printed whole when done
        self._tail = self._rest_after(self._painted)
        self._painted, self._gap = "", False

    def _rest_after(self, shown):
        """The tail without what stays on the screen."""
        rest = self._tail[len(shown) :]
        if self._code:
            self._code.pass_blank()
            return rest.removeprefix("\n")
        if fence := open_fence(shown):
            opening = fence.markup + fence.info
            if fence.map[0] == shown.count("\n"):  # more of that line may come
                return opening + rest
            return opening + "\n" + rest.removeprefix("\n")
        found = blocks(shown)
        if found and found[-1].kind == "table_open":
            # Further rows need the head again; a row that was cut is given whole.
            lines = shown.split("\n")
            start = found[-1].start
            return "\n".join([*lines[start : start + 2], lines[-1] + rest])
        return rest.lstrip(" \t")


def renumbered(block: Block, rest: str) -> str | None:
    """The last item of a list as one that begins a list with the same number.

    None where that number has more digits than were written: what is indented below
    the item would no longer belong to it.
    """
    written = re.match(r" *(\d+)", rest)
    if block.kind == "bullet_list_open" or written is None:
        return rest
    number = str(int(block.token.attrs.get("start", 1)) + len(block.parts) - 1)
    if len(number) != len(written[1]):
        return None
    return rest[: written.start(1)] + number + rest[written.end(1) :]


def closed(text: str) -> int:
    """How far a paragraph has no markup that is open, which more text may close."""
    ends = [len(text)]
    for mark in PAIRED:
        found = [at.start() for at in mark.finditer(text)]
        if len(found) % 2:
            ends.append(found[-1])
    if (opened := text.rfind("[")) > text.rfind("]"):
        ends.append(opened)
    return min(ends)


def window(rows: list[str], room: int) -> list[str]:
    """The last rows that fit, moving by half a screen so that few are repainted."""
    if len(rows) <= room:
        return rows
    step = max(room // 2, 1)
    skipped = -(-(len(rows) - room) // step) * step
    return rows[skipped:]
