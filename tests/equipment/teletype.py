"""A program in a pseudo-terminal, and the screen that its user would see."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pexpect
import pyte

PATIENCE = 60.0
CTRL_C, CTRL_D, ALT_ENTER, UP, TAB = "\x03", "\x04", "\x1b\r", "\x1b[A", "\t"


class Teletype:
    """Types into a program and reads its screen.

    Args:
        arguments: Of python; a module or a script.
        columns, rows: The terminal's size.
        env: Changes of the environment; None removes.
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
        # Asked where its cursor is, a terminal answers.
        self.screen.write_process_input = self.child.send
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.child.close(force=True)

    def lines(self) -> list[str]:
        """What is on the screen and was scrolled off it."""
        columns = range(self.screen.columns)
        gone = (
            "".join(row[x].data for x in columns) for row in self.screen.history.top
        )
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    def text(self) -> str:
        """All of it with single spaces, as if lines were never wrapped."""
        return " ".join(" ".join(self.lines()).split())

    def resize(self, columns: int, rows: int) -> None:
        """As a user who drags the window's corner."""
        self.child.setwinsize(rows, columns)
        self.screen.resize(rows, columns)

    def type(self, text: str) -> None:
        """Press keys."""
        self.child.send(text)

    def wait(self, until: Callable[[], bool] | str) -> None:
        """Read the program's output until something is true, or is on the screen."""
        done = until if callable(until) else lambda: until in self.text()
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {until!r} on\n" + "\n".join(self.lines()))
            try:
                chunk = self.child.read_nonblocking(65536, timeout=0.2)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                assert done(), f"it ended without {until!r}\n" + "\n".join(self.lines())
                return
            self.raw += chunk
            self.stream.feed(chunk)

    def ready(self) -> bool:
        """Whether an empty prompt waits."""
        line = self.screen.display[self.screen.cursor.y]
        return line.rstrip() == ">>" and self.screen.cursor.x == 3

    def enter(self, text: str, until: str | None = None) -> None:
        """Send a line; wait until `until` was said once more, and for the prompt."""
        wanted = self.text().count(until) + 1 if until else 0
        self.type(text + "\r")
        if until:
            self.wait(lambda: self.text().count(until) >= wanted)
        self.wait(self.ready)

    def ask(self, text: str) -> None:
        """Send a message and wait for the end of its answer."""
        self.enter(text, "prompt tokens cached")

    def leave(self) -> None:
        """Ctrl-D at the prompt, and a good end."""
        self.wait(self.ready)
        self.type(CTRL_D)
        assert self.end() == 0

    def end(self) -> int:
        """Wait for the program's end; its exit code."""
        self.wait(lambda: not self.child.isalive())
        self.child.close()
        return self.child.exitstatus
