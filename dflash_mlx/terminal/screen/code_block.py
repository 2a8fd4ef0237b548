"""A fenced block of code, displayed line by line while it arrives.

Owns the colours of a line and the end of the block. Lines are written whole, so that
the terminal wraps them and a copy has no line ends that the code lacks. Does not know
the screen.
"""

from __future__ import annotations

from collections.abc import Sequence

from markdown_it.token import Token
from rich.console import Console, RenderableType
from rich.style import Style
from rich.text import Text

from .blocks import DRAFTED, NO_LANGUAGE, PARSER, PLAIN_THEME, THEME, make_syntax, runs
from .region import chop

# Number of lines above that are highlighted again with a line. Inside a longer string
# or comment, a line may lose its colour, never its text.
CONTEXT_LINES = 80
TAB = 4


class FencedCode:
    """A fenced block that is still open.

    Args:
        token: markdown-it's token of the fence.
        opening: The line that opened it.
    """

    def __init__(self, token: Token, opening: str):
        self._fence = token.markup
        self._indent = len(opening) - len(opening.lstrip(" "))
        self.language = (token.info.split() or [NO_LANGUAGE])[0]
        self._syntax = make_syntax(self.language)
        self._above: list[str] = []
        self._blank = 0

    def label(self, console: Console) -> list[str]:
        """The row above the code: its language, if it has one."""
        if self.language == NO_LANGUAGE:
            return []
        return [encode(console, Text(self.language, Style(dim=True)))]

    def is_closed_by(self, line: str) -> bool:
        """Whether a line ends the block."""
        fence = line.strip(" \t")
        indent = len(line) - len(line.lstrip(" "))
        return indent < 4 and self._may_close(fence) and len(fence) >= len(self._fence)

    def add_line(
        self, console: Console, line: str, drafted: Sequence[int] | None = None
    ) -> list[str]:
        """The rows of a complete line.

        Blank lines wait for the next line with text: those at the end are dropped.

        Args:
            console: Provides the colours.
            line: The line, without its end.
            drafted: For each of its characters, whether it was drafted; these then have
                a colour, in place of the colours of the syntax.
        """
        flags = None if drafted is None else self._plain_flags(line, drafted)
        line = self._plain(line)
        if not line.strip():
            self._blank += 1
            return []
        rows = [""] * self._blank
        self.count_blank_rows()
        if flags is None:
            rows.append(self._highlight(console, line))
        else:
            rows.append(colour_drafted(console, line, flags))
        self._above.append(line)
        if len(self._above) > CONTEXT_LINES:
            self._drop_context()
        return rows

    def count_blank_rows(self) -> None:
        """Count the blank rows that waited among the lines on the screen."""
        self._above += [""] * self._blank
        self._blank = 0

    def preview(self, line: str, width: int) -> list[str]:
        """The rows of an incomplete line, of at most `width` cells."""
        if not line.strip() or self._may_close(line.strip(" \t")):
            return []
        return [""] * self._blank + chop(self._plain(line), width)

    def _plain(self, line: str) -> str:
        """A line without the fence's own indentation and without tabs."""
        spaces = len(line) - len(line.lstrip(" "))
        return line[min(spaces, self._indent) :].expandtabs(TAB)

    def _plain_flags(self, line: str, drafted: Sequence[int]) -> list[int]:
        """`drafted` for the characters of the plain line."""
        spaces = len(line) - len(line.lstrip(" "))
        flags: list[int] = []
        cut = min(spaces, self._indent)
        for letter, flag in zip(line[cut:], drafted[cut:], strict=False):
            width = TAB - len(flags) % TAB if letter == "\t" else 1
            flags += [flag] * width
        return flags

    def _may_close(self, text: str) -> bool:
        return bool(text) and set(text) == {self._fence[0]}

    def _highlight(self, console: Console, line: str) -> str:
        text = self._syntax.highlight("\n".join([*self._above, line]))
        last = text.split("\n", allow_blank=True)[len(self._above)]
        return encode(console, last)

    def _drop_context(self) -> None:
        """Keep the lines after the last blank one, where a statement may begin."""
        blanks = [i for i, line in enumerate(self._above) if not line]
        self._above = self._above[blanks[-1] + 1 :] if blanks else []


def colour_drafted(console: Console, line: str, drafted: Sequence[int]) -> str:
    """A line with the colour of drafted tokens where `drafted` says so."""
    theme = PLAIN_THEME if console.no_color else THEME
    text = Text(line)
    for start, end in runs(drafted):
        if drafted[start]:
            text.stylize(theme.styles[f"markdown.{DRAFTED}"], start, end)
    return encode(console, text)


def encode(console: Console, text: RenderableType) -> str:
    """Text in one row of any length, with escape codes if the console has colours."""
    with console.capture() as capture:
        console.print(text, end="", soft_wrap=True)
    return capture.get()


def find_open_fence(source: str) -> Token | None:
    """The token of the fenced block that a source ends in, at any depth, or None."""
    lines = source.rstrip("\n").split("\n")
    fences = [token for token in PARSER.parse(source) if token.type == "fence"]
    if not fences or fences[-1].map[1] < len(lines):
        return None
    start, fence = fences[-1].map[0], fences[-1]
    last = lines[-1].lstrip("> ")
    closed = len(lines) > start + 1 and FencedCode(fence, "").is_closed_by(last)
    return None if closed else fence
