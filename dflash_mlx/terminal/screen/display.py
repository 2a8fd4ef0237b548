"""Displays one answer and its reasoning as they arrive, and marks drafted tokens.

Owns where text is written: the answer to the console, its reasoning to the same
terminal, or to stderr if the answer goes to a pipe. A pipe receives the answer's exact
text. Does not know how Markdown is rendered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.style import Style
from rich.text import Text

from ...responses import GenerationResponse
from ...text.reasoning import Markers, Splitter
from .markdown import MarkdownStream
from .region import ControlEscaper, Region, answer_console

# Drafted tokens; on terminals without colours they are underlined.
DRAFTED, UNDERLINED = Style(color="green"), Style(underline=True)
LEGEND = "Drafted tokens look like this."
DIM = Style(dim=True)
# Seconds between two repaints of the token count of folded reasoning.
COUNT_INTERVAL = 0.1


class Display:
    """Displays one answer, response by response.

    Args:
        console: Where the answer is written.
        markdown: Render Markdown, if the console can be repainted.
        drafts: Colour the tokens that were drafted.
        reasoning: Show it dimmed, fold it into one line with a token count, or hide it.
        splitter: Separates reasoning from answer, for this answer's prompt; None if
            the model does not mark its reasoning.
        notes: Where reasoning is written if the console is not a terminal.
        clock: The time in seconds.

    Attributes:
        answer, reasoning: The texts so far, as the model wrote them.
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
        self.console, self._clock = console, clock
        self._splitter = splitter or Splitter(Markers())
        self._in_answer = False
        repaints = can_repaint(console)
        notes = console if console.is_terminal else notes or answer_console(sys.stderr)
        same = notes is console
        self._reasoning_view = make_reasoning_view(notes, reasoning, clock, same)
        self._legend = drafts and repaints
        self._body: PlainText | DraftColours | MarkdownStream
        if markdown and repaints:
            self._body = MarkdownStream(console, drafts=drafts)
        elif drafts and repaints:
            self._body = DraftColours(console)
        else:
            self._body = PlainText(console)

    def push(self, response: GenerationResponse) -> None:
        """Display the next response."""
        if self._splitter.state == "reasoning":
            self._reasoning_view.count_token()
        self._show(self._splitter.push(response.text), response.from_draft)

    def close(self) -> None:
        """Display the text that was held back, and end the answer.

        A terminal's cursor is on a new row afterwards; a pipe receives nothing more.
        """
        self._show(self._splitter.close(), False)
        self._reasoning_view.close()
        self._body.close()

    def _show(self, parts: list[tuple[str, str]], from_draft: bool) -> None:
        for kind, text in parts:
            if kind == "reasoning":
                if self._in_answer:
                    self._body.close()
                self._in_answer = False
                self.reasoning += text
                self._reasoning_view.write(text)
                continue
            if not self._in_answer:
                self._reasoning_view.close()
            self._in_answer = True
            self.answer += text
            if self._legend:
                self._legend = False
                style = drafted_style(self.console)
                self.console.print(Text(LEGEND, style), end="\n\n")
            if isinstance(self._body, PlainText):
                self._body.write(text)
            else:
                self._body.write(text, from_draft)


def can_repaint(console: Console) -> bool:
    """Whether rows of a console can be repainted."""
    return console.is_terminal and not console.is_dumb_terminal


class PlainText:
    """Writes text as it arrives; a terminal receives no control characters.

    Args:
        console: Where to write.
        style: The style of the text on a terminal.
    """

    def __init__(self, console: Console, style: Style | None = None):
        self._console, self._style = console, style
        self._escaper = ControlEscaper() if console.is_terminal else None
        self._line_open = False

    def write(self, text: str) -> None:
        """Write a piece."""
        self._put(self._escaper.push(text) if self._escaper else text, self._style)

    def close(self) -> None:
        """End the line on a terminal."""
        if self._escaper:
            self._put(self._escaper.close(), self._style)
            if self._line_open:
                self._put("\n", None)

    def _put(self, text: str, style: Style | None) -> None:
        if not text:
            return
        self._line_open = not text.endswith("\n")
        if style is not None and self._console.color_system is not None:
            text = styled(self._console, text, style)
        self._console.file.write(text)
        self._console.file.flush()


class DraftColours:
    """Writes text as it arrives, with a colour on tokens that were drafted."""

    def __init__(self, console: Console):
        self._drafted = PlainText(console, drafted_style(console))
        self._other = PlainText(console)
        self._last = self._other

    def write(self, text: str, drafted: bool = False) -> None:
        """Write a token's text."""
        if text:
            self._last = self._drafted if drafted else self._other
            self._last.write(text)

    def close(self) -> None:
        """End the line."""
        self._last.close()


def drafted_style(console: Console) -> Style:
    """The style of drafted tokens on a terminal."""
    return UNDERLINED if console.no_color else DRAFTED


def styled(console: Console, text: str, style: Style) -> str:
    """Text with a style on its words, but not on the spaces at the ends of lines."""
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


class ShownReasoning:
    """Writes reasoning dimmed, with a blank row after it.

    Args:
        console: Where to write.
        same: Whether the answer follows on the same console.
    """

    def __init__(self, console: Console, same: bool):
        self._text, self._same = PlainText(console, DIM), same
        self._written = False

    def count_token(self) -> None:
        """Ignore the number of tokens."""

    def write(self, text: str) -> None:
        """Write a piece."""
        self._written = True
        self._text.write(text)

    def close(self) -> None:
        """End the reasoning; the next text begins on a new row."""
        if self._written:
            self._written = False
            self._text.close()
            if self._same:
                self._text.write("\n")


class HiddenReasoning:
    """Ignores reasoning."""

    def count_token(self) -> None:
        """Ignore the number of tokens."""

    def write(self, text: str) -> None:
        """Ignore a piece."""

    def close(self) -> None:
        """Do nothing."""


class FoldedReasoning:
    """Shows reasoning as one line with its number of tokens and seconds.

    Args:
        console: Where to write; a terminal shows the count as it grows.
        same: Whether the answer follows on the same console.
        clock: The time in seconds.
    """

    def __init__(self, console: Console, same: bool, clock: Callable[[], float]):
        self._console, self._same, self._clock = console, same, clock
        self._region = Region(console) if can_repaint(console) else None
        self._tokens, self._written = 0, False
        self._started: float | None = None
        self._due = 0.0

    def count_token(self) -> None:
        """Count a token, and repaint the line if it is due."""
        now = self._clock()
        if self._started is None:
            self._started = now
        self._tokens += 1
        if self._region and now >= self._due:
            self._due = now + COUNT_INTERVAL
            self._region.paint([], [self._line("thinking")])

    def write(self, text: str) -> None:
        """Note that the reasoning is not empty."""
        self._written = self._written or bool(text.strip())

    def close(self) -> None:
        """End the reasoning and keep the last count on the screen."""
        if self._started is None:
            return
        line = [self._line("thought")] if self._written else []
        if self._region:
            self._region.paint(line + [""] * (self._same and self._written), [])
        elif line:
            self._console.file.write(line[0] + "\n")
            self._console.file.flush()
        self._started, self._tokens, self._written = None, 0, False

    def _line(self, verb: str) -> str:
        seconds = self._clock() - self._started
        words = f"{verb} for {self._tokens} tokens, {seconds:.1f} s"
        return styled(self._console, words[: self._console.width - 1], DIM)


def make_reasoning_view(
    console: Console,
    mode: Literal["show", "fold", "hide"],
    clock: Callable[[], float],
    same: bool,
) -> ShownReasoning | FoldedReasoning | HiddenReasoning:
    """The view for a mode; the other arguments are those of FoldedReasoning."""
    if mode == "show":
        return ShownReasoning(console, same)
    if mode == "fold":
        return FoldedReasoning(console, same, clock)
    return HiddenReasoning()
