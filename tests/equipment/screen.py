"""A terminal in memory with its scrollback, and Markdown streamed to it."""

import random
import re

import pyte
from rich.console import Console

from dflash_mlx.terminal.screen.blocks import LosslessMarkdown
from dflash_mlx.terminal.screen.markdown import MarkdownStream

CONTROLS = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
# The escape codes that the display may write: colours, cursor up, erase below.
ALLOWED = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d+A|\x1b\[J")
WORDS = "the quick brown fox jumps over lazy dogs and 42 other animals".split()


class Screen:
    """A file for a console, which shows what it receives on an emulated screen."""

    def __init__(self, width=80, height=10):
        self.screen = pyte.HistoryScreen(width, height, history=100_000)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)
        self.written = ""

    def write(self, text):
        self.written += text
        self.stream.feed(text)

    def flush(self):
        pass

    def isatty(self):
        return True

    def rows(self):
        """The rows of scrollback and screen, without trailing blanks."""
        history = [self._row(line) for line in self.screen.history.top]
        rows = history + [row.rstrip() for row in self.screen.display]
        return "\n".join(rows).rstrip("\n").split("\n")

    def _row(self, line):
        cells = [line[x].data for x in range(self.screen.columns)]
        return "".join(cells).rstrip()

    def controls(self):
        """The control characters that were written and are not allowed."""
        rest = ALLOWED.sub("", self.written).replace("\r\x1b[J", "")
        return CONTROLS.findall(rest.replace("\r", "")) + re.findall("\x1b", rest)

    def console(self, **options):
        """A console that writes to this screen."""
        given = {"force_terminal": True, "color_system": "256", "_environ": {}}
        size = {"width": self.screen.columns, "height": self.screen.lines}
        return Console(file=self, **{**given, **size, **options})


def collapsed(rows):
    """Rows without repeated blank rows, and without blank rows around them."""
    text = re.sub("\n\n+", "\n\n", "\n".join(rows))
    return text.strip("\n").split("\n")


def stream_markdown(text, width=80, height=10, step=1, **options):
    """The screen after a Markdown text that arrived in pieces of `step` characters."""
    screen = Screen(width, height)
    markdown = MarkdownStream(screen.console(**options), refresh=0)
    for i in range(0, len(text), step):
        markdown.write(text[i : i + step])
        assert len(markdown._region.shown) < height
    markdown.close()
    return screen


def render_at_once(text, width=80, height=10):
    """The screen with rich's rendering of a text, which leaves the last column free."""
    screen = Screen(width, height)
    screen.console(width=width - 1).print(LosslessMarkdown(text))
    return screen


def prose(n, seed=0):
    """A text of n random words."""
    pick = random.Random(seed)
    return " ".join(pick.choice(WORDS) for _ in range(n))
