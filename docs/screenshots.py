"""Pictures of the terminal for the README, from the real program.

    python docs/screenshots.py

Starts dflash-mlx in a pseudo-terminal, types what a scene says, and writes what a
terminal then shows as docs/NAME.svg. Needs the development extras (pexpect, pyte).
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

HERE = Path(__file__).parent
LABEL = "   (the built-in toy, on a CPU)"
SECONDS = 120  # that a scene may wait for anything


@dataclass(frozen=True)
class Scene:
    """What is typed, and what is waited for.

    Args:
        name: Of the picture.
        arguments: Of dflash-mlx.
        steps: (text that must appear first, keys that are typed then).
        until: Text that must appear in the end.
        columns, rows: Of the terminal.
    """

    name: str
    arguments: list[str]
    steps: list[tuple[str, str]]
    until: str
    columns: int = 88
    rows: int = 32


ENTER = "\r"
SCENES = [
    Scene(
        "generate",
        ["generate", "Write the 9 times table up to 12.", "--model", "tiny"],
        [],
        "DFlash:",
        rows=24,
    ),
    Scene(
        "chat",
        ["chat", "tiny"],
        [
            (">> ", "Make a table of squares from 1 to 5." + ENTER),
            ("25", "Write the 9 times table up to 12." + ENTER),
            ("9 x 12 = 108", "/set drafts on" + ENTER),
            ("drafts is now on", "/retry" + ENTER),
            ("look like this", "/stats" + ENTER),
        ],
        "All 3 answers",
        rows=60,
    ),
]


class Terminal:
    """A program in a pseudo-terminal, and the screen that it draws."""

    def __init__(self, scene: Scene, home: str):
        self.screen = pyte.Screen(scene.columns, scene.rows)
        self.stream = pyte.ByteStream(self.screen)
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "dflash_mlx", *scene.arguments],
            dimensions=(scene.rows, scene.columns),
            env={"HOME": home, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
            timeout=SECONDS,
        )

    def wait(self, text: str) -> None:
        """Read on until the screen shows a text that is new."""
        while text not in "\n".join(self.screen.display):
            self.stream.feed(self.child.read_nonblocking(4096, SECONDS))

    def rest(self) -> None:
        """Read until nothing comes for a while, or the program ends."""
        try:
            while True:
                self.stream.feed(self.child.read_nonblocking(4096, 1.0))
        except (pexpect.TIMEOUT, pexpect.EOF):
            return


def drawn(screen: pyte.Screen) -> Text:
    """The screen as rich text, without the empty rows at its end."""
    text, last = Text(), 0
    for y in range(screen.lines):
        for x in range(screen.columns):
            cell = screen.buffer[y][x]
            text.append(cell.data, style(cell))
            last = len(text) if cell.data.strip() else last
        text.append("\n")
    return text[:last]


def style(cell: pyte.screens.Char) -> Style:
    """A cell's looks."""
    return Style(
        color=color(cell.fg),
        bgcolor=color(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        reverse=cell.reverse,
    )


def color(name: str) -> str | None:
    """pyte's name of a colour as rich's."""
    if name == "default":
        return None
    if len(name) == 6 and all(c in "0123456789abcdef" for c in name):
        return f"#{name}"
    return {"brown": "yellow"}.get(name, name.replace("bright", "bright_"))


def take(scene: Scene) -> None:
    """Play a scene and write its picture."""
    with tempfile.TemporaryDirectory() as home:
        terminal = Terminal(scene, home)
        for text, keys in scene.steps:
            terminal.wait(text)
            terminal.child.send(keys)
        terminal.wait(scene.until)
        terminal.rest()
        terminal.child.close(force=True)
    console = Console(width=scene.columns, record=True, file=StringIO())
    console.print(drawn(terminal.screen), no_wrap=True)
    title = " ".join(["dflash-mlx", *scene.arguments]) + LABEL
    file = HERE / f"{scene.name}.svg"
    console.save_svg(str(file), title=title)
    print(file)


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for scene in SCENES:
        if not wanted or scene.name in wanted:
            take(scene)
