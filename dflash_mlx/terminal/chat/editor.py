"""Where a chat's messages come from: a line editor, a simple terminal, or a pipe.

Owns keys and what the terminal does meanwhile. Knows no conversation; which words can
be completed is told by the caller.
"""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Callable, Iterator
from io import BytesIO
from select import select
from typing import BinaryIO, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import History
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout.processors import TabsProcessor
from prompt_toolkit.output import Output
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.utils import is_dumb_terminal

from ...errors import PromptError
from ..streams import check_utf8

SIGN = ">> "
MORE = ".. "
# Seconds after which a Ctrl-C is heard at the latest.
HEARING = 0.1


class Reader(Protocol):
    """Gives messages.

    Attributes:
        terminal: Somebody sits there.
        edits: It can offer a text to edit.
    """

    terminal: bool
    edits: bool

    def read(self, text: str = "") -> str | None:
        """The next message, `text` offered to edit; None at the end.

        Raises:
            KeyboardInterrupt: Ctrl-C, and there was nothing to clear.
            PromptError: It is no UTF-8.
        """

    def paste(self) -> str | None:
        """All lines up to Ctrl-D or the end, as one message; None if given up."""


class Lines:
    """A pipe or a terminal without escape codes: a line is a message.

    Args:
        source: Bytes of UTF-8.
        terminal: Somebody sits there: show a sign, and go on after a backslash.
    """

    edits = False

    def __init__(self, source: BinaryIO, terminal: bool = False):
        self.source, self.terminal = source, terminal

    def read(self, text: str = "") -> str | None:
        """As in Reader."""
        self._sign(SIGN)
        line = self._line()
        while self.terminal and line is not None and line.endswith("\\"):
            self._sign(MORE)
            line = line[:-1] + "\n" + (self._line() or "")
        return line

    def paste(self) -> str | None:
        """As in Reader."""
        lines = []
        while raw := self._raw():
            lines.append(raw)
        return "\n".join(map(self._text, lines)) or None

    def _line(self):
        raw = self._raw()
        return self._text(raw) if raw else None

    def _raw(self):
        # A Ctrl-C just before a blocking read is heard after it: it must not block.
        while self.terminal and not select([self.source], [], [], HEARING)[0]:
            pass
        return self.source.readline()

    def _text(self, raw):
        try:
            return raw.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise PromptError(
                "The message is not valid UTF-8.", "Convert it, for example with iconv."
            ) from None

    def _sign(self, sign):
        if self.terminal:
            print(sign, end="", file=sys.stderr, flush=True)


class LineEditor:
    """A terminal: Enter sends, Alt-Enter or a last backslash begins a new line.

    Args:
        history: Lines of earlier sessions.
        completer: What Tab completes.
        input, output: The terminal; the program's own if left out.
    """

    terminal = edits = True

    def __init__(
        self,
        history: History,
        completer: Completer,
        input: Input | None = None,
        output: Output | None = None,
    ):
        common = {
            "multiline": True,
            "enable_suspend": True,
            "input_processors": [TabsProcessor(char1=" ", char2=" ")],
            "input": input,
            # stdout may be a file: the answers go there.
            "output": output or create_output(always_prefer_tty=True),
        }
        self._session: PromptSession[str] = PromptSession(
            SIGN,
            history=history,
            completer=completer,
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            search_ignore_case=True,
            key_bindings=message_keys(),
            **common,
        )
        self._paper: PromptSession[str] = PromptSession(
            MORE, key_bindings=paste_keys(), **common
        )

    def read(self, text: str = "") -> str | None:
        """As in Reader."""
        try:
            return check_utf8(self._session.prompt(default=text))
        except EOFError:
            return None

    def paste(self) -> str | None:
        """As in Reader."""
        try:
            return check_utf8(self._paper.prompt()).rstrip("\n") or None
        except (EOFError, KeyboardInterrupt):
            return None


def message_keys() -> KeyBindings:
    """What keys do beside the usual ones of an editor line."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event):
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event):
        event.current_buffer.insert_text("\n")

    keys.add("c-c", filter=~is_searching)(clear_or_leave)
    keys.add("<sigint>")(clear_or_leave)
    return keys


def paste_keys() -> KeyBindings:
    """All is text, as without an editor, up to Ctrl-D."""
    keys = KeyBindings()
    for key, text in (("enter", "\n"), ("tab", "\t")):
        keys.add(key)(inserting(text))

    @keys.add("c-d")
    def send(event):
        event.current_buffer.validate_and_handle()

    return keys


def inserting(text: str) -> Callable:
    """A key that types `text`."""

    def type_it(event):
        event.current_buffer.insert_text(text)

    return type_it


def clear_or_leave(event) -> None:
    """Ctrl-C clears a text; without one it interrupts the prompt."""
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")


def open_reader(history: Callable[[], History], completer: Completer) -> Reader:
    """The reader that stdin asks for; `history` is opened if it has one."""
    if sys.stdin is None or not sys.stdin.isatty():
        return Lines(sys.stdin.buffer if sys.stdin else BytesIO())
    shown = sys.stdout.isatty() or sys.stderr.isatty()
    if is_dumb_terminal() or not shown:
        return Lines(sys.stdin.buffer, terminal=True)
    return LineEditor(history(), completer)


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """What is typed while an answer comes waits for the next prompt, unseen."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):  # no terminal
        yield
        return
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
