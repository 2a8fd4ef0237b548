"""A program in a pseudo-terminal, with the screen that its user sees."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pexpect
import pyte

TIMEOUT = 60.0  # seconds
STATUS = " tok "  # in the line below each answer of a chat
CTRL_C, CTRL_D, ALT_ENTER, UP, TAB = "\x03", "\x04", "\x1b\r", "\x1b[A", "\t"


class Teletype:
    """Types into a Python program and reads its screen.

    Args:
        arguments: Arguments of python, for example "-m" and a module.
        columns, rows: The size of the terminal.
        env: Environment variables to set; None removes one.
        cwd: The working directory.

    Attributes:
        screen: The emulated screen with its scrollback.
        raw: All bytes that the program wrote.
    """

    def __init__(self, *arguments, columns=80, rows=24, env=None, cwd=None):
        terminal = {"TERM": "xterm-256color", "COLUMNS": None, "LINES": None}
        changed = os.environ | terminal | (env or {})
        changed = {name: value for name, value in changed.items() if value is not None}
        changed.setdefault("PYTHONPATH", os.pathsep.join(sys.path))
        self.child = pexpect.spawn(
            sys.executable,
            list(arguments),
            dimensions=(rows, columns),
            env=changed,
            cwd=cwd,
        )
        self.child.delaybeforesend = None
        self.screen = pyte.HistoryScreen(columns, rows, history=9999)
        # Answers queries, for example for the position of the cursor.
        self.screen.write_process_input = self.child.send
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.child.close(force=True)

    def lines(self) -> list[str]:
        """The rows of scrollback and screen."""
        columns = range(self.screen.columns)
        scrolled = (
            "".join(row[x].data for x in columns) for row in self.screen.history.top
        )
        return [line.rstrip() for line in [*scrolled, *self.screen.display]]

    def text(self) -> str:
        """The text of all rows with single spaces, as if no line were wrapped."""
        return " ".join(" ".join(self.lines()).split())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def type(self, text: str) -> None:
        """Send keys to the program."""
        self.child.send(text)

    def wait(self, until: Callable[[], bool] | str) -> None:
        """Read the output until a function returns True or a text is on the screen."""
        done = until if callable(until) else lambda: until in self.text()
        deadline = time.monotonic() + TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"{until!r} is not on\n" + "\n".join(self.lines()))
            try:
                self._read(timeout=0.2)
                while True:  # all of it: `done` takes longer than a small chunk
                    self._read(timeout=0)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                shown = "\n".join(self.lines())
                assert done(), f"the program ended without {until!r}\n{shown}"
                return

    def _read(self, timeout: float) -> None:
        chunk = self.child.read_nonblocking(65536, timeout=timeout)
        self.raw += chunk
        self.stream.feed(chunk)

    def ready(self) -> bool:
        """Whether the cursor is at an empty prompt."""
        line = self.screen.display[self.screen.cursor.y]
        return line.rstrip() == ">>" and self.screen.cursor.x == 3

    def enter(self, text: str, until: str | None = None) -> None:
        """Send a line; wait until `until` appears once more, then for the prompt."""
        expected = self.text().count(until) + 1 if until else 0
        self.type(text + "\r")
        if until:
            self.wait(lambda: self.text().count(until) >= expected)
        self.wait(self.ready)

    def send(self, text: str) -> None:
        """Send a message and wait for the end of its answer."""
        self.enter(text, STATUS)

    def leave(self) -> None:
        """Press Ctrl-D at the prompt; the program must exit with 0."""
        self.wait(self.ready)
        self.type(CTRL_D)
        assert self.end() == 0

    def end(self) -> int:
        """Wait for the program to exit; its exit code."""
        self.wait(lambda: not self.child.isalive())
        self.child.close()
        return self.child.exitstatus
