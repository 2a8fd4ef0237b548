"""Reads a chat's messages from a line editor, a simple terminal or a pipe.

Owns the keys, and the terminal's echo while an answer arrives. Does not know
conversations or commands; the words to complete are passed in.
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
from .lines import is_open

PROMPT = ">> "
EDIT_PROMPT = "edit> "
CONTINUATION = ".. "
# Of prompts: a colour of the terminal's own palette, which fits light and dark ones.
PROMPT_STYLE = "ansicyan"
# Seconds after which a Ctrl-C is noticed at the latest.
POLL_INTERVAL = 0.1


class Reader(Protocol):
    """Reads messages.

    Attributes:
        terminal: Whether the messages are typed on a terminal.
        can_edit: Whether it can offer a text for editing.
    """

    terminal: bool
    can_edit: bool

    def read(self) -> str | None:
        """Read the next line.

        Returns:
            The line; None at the end of the input.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed on an empty line.
            PromptError: The line is not valid UTF-8.
        """

    def edit(self, text: str) -> str | None:
        """Offer a line for editing, at a prompt of its own.

        Returns:
            The edited line; None if Ctrl-C or Ctrl-D left the prompt.
        """

    def paste(self) -> str | None:
        """Read all lines up to Ctrl-D or the end as one message; None if cancelled."""


class LineReader:
    """Reads a pipe, or a terminal without escape codes: each line is a message.

    Args:
        source: Bytes of UTF-8.
        terminal: `source` is a terminal: print prompts, and continue a line that ends
            with a backslash.
    """

    can_edit = False

    def __init__(self, source: BinaryIO, terminal: bool = False):
        self.source, self.terminal = source, terminal

    def read(self) -> str | None:
        """As in Reader."""
        self._print_prompt(PROMPT)
        line = self._read_line()
        while self.terminal and line is not None:
            if not line.endswith("\\") and not is_open(line):
                break
            self._print_prompt(CONTINUATION)
            if (more := self._read_line()) is None:
                break
            line = line.removesuffix("\\") + "\n" + more
        return line

    def edit(self, text: str) -> str | None:
        """Never called, since can_edit is False."""
        return None

    def paste(self) -> str | None:
        """As in Reader."""
        lines = []
        while raw := self._read_bytes():
            lines.append(raw)
        return "\n".join(map(self._decode, lines)) or None

    def _read_line(self) -> str | None:
        raw = self._read_bytes()
        return self._decode(raw) if raw else None

    def _read_bytes(self) -> bytes:
        # A blocking read would delay a Ctrl-C that comes just before it.
        while self.terminal and not select([self.source], [], [], POLL_INTERVAL)[0]:
            pass
        return self.source.readline()

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise PromptError(
                "The message is not valid UTF-8.", "Convert it, for example with iconv."
            ) from None

    def _print_prompt(self, text: str) -> None:
        if self.terminal:
            print(text, end="", file=sys.stderr, flush=True)


class LineEditor:
    """Reads a terminal with a line editor.

    Enter sends; Alt-Enter, or Enter after a backslash or inside triple quotes, starts a
    new line.

    Args:
        history: The lines of earlier sessions.
        completer: Completes words on Tab.
        input, output: The terminal; by default the program's own.
    """

    terminal = can_edit = True

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
            # stdout, where the answers go, may be a file.
            "output": output or create_output(always_prefer_tty=True),
        }
        line = common | {
            "history": history,
            "completer": completer,
            "complete_while_typing": False,
            "complete_style": CompleteStyle.READLINE_LIKE,
            "search_ignore_case": True,
        }
        self._message_session: PromptSession[str] = PromptSession(
            coloured(PROMPT), key_bindings=message_keys(clear_or_interrupt), **line
        )
        self._edit_session: PromptSession[str] = PromptSession(
            coloured(EDIT_PROMPT), key_bindings=message_keys(interrupt), **line
        )
        self._paste_session: PromptSession[str] = PromptSession(
            coloured(CONTINUATION), key_bindings=paste_keys(), **common
        )

    def read(self) -> str | None:
        """As in Reader."""
        try:
            return check_utf8(self._message_session.prompt())
        except EOFError:
            return None

    def edit(self, text: str) -> str | None:
        """As in Reader."""
        try:
            return check_utf8(self._edit_session.prompt(default=text))
        except (EOFError, KeyboardInterrupt):
            return None

    def paste(self) -> str | None:
        """As in Reader."""
        try:
            return check_utf8(self._paste_session.prompt()).rstrip("\n") or None
        except (EOFError, KeyboardInterrupt):
            return None


def coloured(prompt: str) -> list[tuple[str, str]]:
    """A prompt in its colour, as prompt_toolkit takes it."""
    return [(PROMPT_STYLE, prompt)]


def message_keys(on_ctrl_c: Callable) -> KeyBindings:
    """The keys that differ from prompt_toolkit's defaults.

    Args:
        on_ctrl_c: The handler of Ctrl-C.
    """
    keys = KeyBindings()

    @keys.add("enter")
    def send(event):
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    keys.add("escape", "enter")(insert("\n"))
    keys.add("c-c", filter=~is_searching)(on_ctrl_c)
    keys.add("<sigint>")(on_ctrl_c)
    return keys


def paste_keys() -> KeyBindings:
    """The keys of /paste: Enter and Tab insert themselves, Ctrl-D sends."""
    keys = KeyBindings()
    for key, text in (("enter", "\n"), ("tab", "\t")):
        keys.add(key)(insert(text))

    @keys.add("c-d")
    def send(event):
        event.current_buffer.validate_and_handle()

    return keys


def insert(text: str) -> Callable:
    """A key handler that inserts `text`."""

    def handler(event):
        event.current_buffer.insert_text(text)

    return handler


def clear_or_interrupt(event) -> None:
    """Clear the text; interrupt the prompt if there is none."""
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        interrupt(event)


def interrupt(event) -> None:
    """Leave the prompt."""
    event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")


def open_reader(history: Callable[[], History], completer: Completer) -> Reader:
    """A reader of stdin.

    Args:
        history: Opens the history; called only for a line editor.
        completer: As in LineEditor.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return LineReader(sys.stdin.buffer if sys.stdin else BytesIO())
    has_screen = sys.stdout.isatty() or sys.stderr.isatty()
    if is_dumb_terminal() or not has_screen:
        return LineReader(sys.stdin.buffer, terminal=True)
    return LineEditor(history(), completer)


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Hide what is typed while the body runs; the next prompt shows it."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):  # stdin is not a terminal
        yield
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
