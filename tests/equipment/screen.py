"""A terminal in memory: what a person sees, scrollback included."""

import re

import pyte
from rich.console import Console

STEERING = re.compile("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
# What the display may say to a terminal: colours, cursor up, erase below.
SAID = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d+A|\x1b\[J")


class Screen:
    """A file that a console writes to, and the screen behind it."""

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
        """Scrollback and screen, without blanks at the ends."""
        history = [self._row(line) for line in self.screen.history.top]
        rows = history + [row.rstrip() for row in self.screen.display]
        return "\n".join(rows).rstrip("\n").split("\n")

    def _row(self, line):
        cells = [line[x].data for x in range(self.screen.columns)]
        return "".join(cells).rstrip()

    def controls(self):
        """Control characters that were written, other than the display's own."""
        rest = SAID.sub("", self.written).replace("\r\x1b[J", "")
        return STEERING.findall(rest.replace("\r", "")) + re.findall("\x1b", rest)

    def console(self, **options):
        """A console that writes here."""
        given = {"force_terminal": True, "color_system": "256", "_environ": {}}
        size = {"width": self.screen.columns, "height": self.screen.lines}
        return Console(file=self, **{**given, **size, **options})


def collapsed(rows):
    """Rows with single blank ones between, none around."""
    text = re.sub("\n\n+", "\n\n", "\n".join(rows))
    return text.strip("\n").split("\n")
