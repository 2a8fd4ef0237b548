"""A fenced block of code as it comes: line by line, coloured, nothing in between.

Lines are written whole, so that the terminal wraps them and a copy has no line ends
that the code lacks.
"""

from __future__ import annotations

from markdown_it.token import Token
from rich.console import Console

from .blocks import PARSER, highlighter
from .region import chopped

# Lines above that are read again for a line's colours; a string or comment that is
# longer may lose its colour, never its text.
CONTEXT = 80
TAB = 4


class Code:
    """A fenced block that is open.

    Args:
        token: markdown-it's, of the fence.
        opening: The line that opened it.
    """

    def __init__(self, token: Token, opening: str):
        self._fence = token.markup
        self._indent = len(opening) - len(opening.lstrip(" "))
        self._syntax = highlighter((token.info.split() or ["text"])[0])
        self._above: list[str] = []
        self._blank = 0

    def closes(self, line: str) -> bool:
        """Whether a line is the block's end."""
        fence = line.strip(" \t")
        indent = len(line) - len(line.lstrip(" "))
        return indent < 4 and self._may_close(fence) and len(fence) >= len(self._fence)

    def row(self, console: Console, line: str) -> list[str]:
        """A complete line as rows; blank ones wait, as the last ones are dropped."""
        line = self._plain(line)
        if not line.strip():
            self._blank += 1
            return []
        rows = [""] * self._blank
        self.pass_blank()
        rows.append(self._coloured(console, line))
        self._above.append(line)
        if len(self._above) > CONTEXT:
            self._forget()
        return rows

    def pass_blank(self) -> None:
        """Blank rows that waited are on the screen."""
        self._above += [""] * self._blank
        self._blank = 0

    def live(self, line: str, width: int) -> list[str]:
        """The line under way, in rows of at most `width` cells."""
        if not line.strip() or self._may_close(line.strip(" \t")):
            return []
        return [""] * self._blank + chopped(self._plain(line), width)

    def _plain(self, line):
        """A line without the fence's own indentation and without tabs."""
        spaces = len(line) - len(line.lstrip(" "))
        return line[min(spaces, self._indent) :].expandtabs(TAB)

    def _may_close(self, text):
        return bool(text) and set(text) == {self._fence[0]}

    def _coloured(self, console, line):
        text = self._syntax.highlight("\n".join([*self._above, line]))
        last = text.split("\n", allow_blank=True)[len(self._above)]
        with console.capture() as capture:
            console.print(last, end="", soft_wrap=True)
        return capture.get()

    def _forget(self):
        """Keep what follows the last blank line, where a piece of code may begin."""
        blanks = [i for i, line in enumerate(self._above) if not line]
        self._above = self._above[blanks[-1] + 1 :] if blanks else []


def open_fence(source: str) -> Token | None:
    """The fenced block that a source ends within, at whatever depth."""
    lines = source.rstrip("\n").split("\n")
    fences = [token for token in PARSER.parse(source) if token.type == "fence"]
    if not fences or fences[-1].map[1] < len(lines):
        return None
    start, fence = fences[-1].map[0], fences[-1]
    ended = len(lines) > start + 1 and Code(fence, "").closes(lines[-1].lstrip("> "))
    return None if ended else fence
