"""An answer on the terminal: its text, its reasoning, and who proposed its tokens.

Owns what goes where: the answer to the console, its reasoning beside it on a terminal
and to stderr otherwise. A pipe gets the answer's own bytes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text

from ...engine import GenerationResponse
from ...text.reasoning import Markers, Splitter
from .markdown import MarkdownStream
from .region import Cleaner, Region, console_of

# Colour, and for terminals without colours a line under the target's own.
DRAFTED = Style(color="green")
OWN = Style(color="magenta", underline=True)
DIM = Style(dim=True)
# Seconds between two counts of a folded reasoning.
COUNT = 0.1


class Display:
    """Shows one answer as its responses come.

    Args:
        console: Where the answer goes.
        markdown: Render it, where the console is a terminal that can.
        drafts: Colour tokens by who proposed them; plain text then.
        reasoning: Show it dimmed, fold it into a line that counts, or hide it.
        splitter: Of reasoning.py, for this answer's prompt; None where a model marks
            no reasoning.
        notes: Where reasoning goes when the console is no terminal.
        clock: Seconds.

    Attributes:
        answer, reasoning: The texts so far, complete and as they came.
    """

    def __init__(
        self,
        console: Console,
        *,
        markdown: bool = True,
        drafts: bool = False,
        reasoning: Literal["show", "fold", "hide"] = "show",
        splitter: Splitter | None = None,
        notes: Console | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.answer = self.reasoning = ""
        self._splitter = splitter or Splitter(Markers())
        self._answering = False
        self.console, self._clock = console, clock
        able = capable(console)
        aside = console if console.is_terminal else notes or console_of(sys.stderr)
        self._thoughts = thoughts(aside, reasoning, clock, same=aside is console)
        if drafts and able:
            self._body: Plain | Drafts | MarkdownStream = Drafts(console)
        elif markdown and able:
            self._body = MarkdownStream(console)
        else:
            self._body = Plain(console)

    def push(self, response: GenerationResponse) -> None:
        """Show a response."""
        if self._splitter.state == "reasoning":
            self._thoughts.count()
        self._show(self._splitter.push(response.text), response.from_draft)

    def close(self) -> None:
        """End the answer, also one that was interrupted.

        A terminal's cursor is on a new row then; a pipe got the answer and no more.
        """
        self._show(self._splitter.close(), False)
        self._thoughts.close()
        self._body.close()

    def _show(self, parts, from_draft):
        for kind, text in parts:
            if kind == "reasoning":
                if self._answering:
                    self._body.close()
                self._answering = False
                self.reasoning += text
                self._thoughts.write(text)
                continue
            if not self._answering:
                self._thoughts.close()
            self._answering = True
            self.answer += text
            if isinstance(self._body, Drafts):
                self._body.write(text, from_draft)
            else:
                self._body.write(text)


def capable(console: Console) -> bool:
    """Whether rows of a console can be repainted."""
    return console.is_terminal and not console.is_dumb_terminal


class Plain:
    """Text as it came: to a pipe byte for byte, to a terminal without what steers it.

    Args:
        console: Where to.
        style: For a terminal.
    """

    def __init__(self, console: Console, style: Style | None = None):
        self._console, self._style = console, style
        self._clean = Cleaner() if console.is_terminal else None
        self._open = False

    def write(self, text: str) -> None:
        """Add a piece."""
        self._put(self._clean.push(text) if self._clean else text, self._style)

    def close(self) -> None:
        """End the line on a terminal."""
        if self._clean:
            self._put(self._clean.close(), self._style)
            if self._open:
                self._put("\n", None)

    def _put(self, text, style):
        if not text:
            return
        self._open = not text.endswith("\n")
        if style is not None and self._console.color_system is not None:
            text = styled(self._console, text, style)
        self._console.file.write(text)
        self._console.file.flush()


class Drafts(Plain):
    """Text whose colours tell who proposed it.

    Without colours the target's own tokens are underlined.
    """

    def __init__(self, console: Console):
        super().__init__(console)
        self._told = False

    def write(self, text: str, from_draft: bool = False) -> None:
        """Add a token's text; its first piece brings the legend."""
        if not text:
            return
        if not self._told:
            self._told = True
            for words, style in (("drafted", DRAFTED), (" ", None), ("own", OWN)):
                self._put(words, style)
            self._put("\n", None)
        self._put(self._clean.push(text), DRAFTED if from_draft else OWN)


def styled(console: Console, text: str, style: Style) -> str:
    """Text with a style on its words, none on the line ends and blanks around them."""
    lines = []
    for line in text.split("\n"):
        words = line.strip(" \t")
        if not words:
            lines.append(line)
            continue
        with console.capture() as capture:
            console.print(Text(words, style=style), end="", soft_wrap=True)
        before, _, after = line.partition(words)
        lines.append(before + capture.get() + after)
    return "\n".join(lines)


class Shown:
    """Reasoning, dimmed, a blank row after it.

    Args:
        console: Where to.
        same: Whether the answer follows there.
    """

    def __init__(self, console: Console, same: bool):
        self._plain, self._same = Plain(console, DIM), same
        self._written = False

    def count(self) -> None:
        """A token of it came."""

    def write(self, text: str) -> None:
        """Add a piece."""
        self._written = True
        self._plain.write(text)

    def close(self) -> None:
        """It is over; what comes next begins on a row of its own."""
        if self._written:
            self._written = False
            self._plain.close()
            if self._same:
                self._plain.write("\n")


class Hidden:
    """Reasoning that is not shown."""

    def count(self) -> None:
        """A token of it came."""

    def write(self, text: str) -> None:
        """Add a piece."""

    def close(self) -> None:
        """It is over."""


class Folded:
    """Reasoning as one line: how many tokens, how many seconds.

    Args:
        console: Where to; a terminal sees it count.
        same: Whether the answer follows there.
        clock: Seconds.
    """

    def __init__(self, console: Console, same: bool, clock: Callable[[], float]):
        self._console, self._same, self._clock = console, same, clock
        self._region = Region(console) if capable(console) else None
        self._tokens, self._written = 0, False
        self._since: float | None = None
        self._due = 0.0

    def count(self) -> None:
        """A token of it came."""
        now = self._clock()
        if self._since is None:
            self._since = now
        self._tokens += 1
        if self._region and now >= self._due:
            self._due = now + COUNT
            self._region.paint([], [self._line("thinking")])

    def write(self, text: str) -> None:
        """Add a piece."""
        self._written = self._written or bool(text.strip())

    def close(self) -> None:
        """It is over: the last count stays."""
        if self._since is None:
            return
        line = [self._line("thought")] if self._written else []
        if self._region:
            self._region.paint(line + [""] * (self._same and self._written), [])
        elif line:
            self._console.file.write(line[0] + "\n")
            self._console.file.flush()
        self._since, self._tokens, self._written = None, 0, False

    def _line(self, verb):
        seconds = self._clock() - self._since
        words = f"{verb} for {self._tokens} tokens, {seconds:.1f} s"
        return styled(self._console, words[: self._console.width - 1], DIM)


def thoughts(
    console: Console,
    how: Literal["show", "fold", "hide"],
    clock: Callable[[], float],
    same: bool,
) -> Shown | Folded | Hidden:
    """What shows the reasoning."""
    if how == "show":
        return Shown(console, same)
    return Folded(console, same, clock) if how == "fold" else Hidden()
