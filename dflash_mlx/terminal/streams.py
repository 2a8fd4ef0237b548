"""The standard streams: generate's prompt from stdin, notices on stderr.

Owns how arguments and piped text become one prompt. Does not know models.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import textwrap
from collections.abc import Iterator
from threading import Timer

from ..errors import OptionError, PromptError

STDIN = "-"
BYTE_ORDER_MARK = "\ufeff"  # some editors begin a file with it
# Seconds after which a notice explains the wait for piped text.
PATIENCE = 2.0
WAITING = "Waiting for text on stdin. If there is none, add </dev/null to the command."

NO_MODEL = (
    "No --model given: tiny answers, a built-in toy that only knows arithmetic "
    "exercises. For a real model add --model qwen3-8b; `dflash-mlx models` lists what "
    "fits this machine."
)


def print_notice(text: str) -> None:
    """Print a line on stderr; a terminal's rows end between two words."""
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        text = "\n".join(
            textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
            for line in text.split("\n")
        )
    print(text, file=sys.stderr, flush=True)


def ask(question: str) -> bool:
    """Ask a yes-or-no question on the terminal; anything but y or yes is no.

    Raises:
        OptionError: stdin is not a terminal, so that nobody can answer.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise OptionError(
            "stdin is not a terminal, so the question cannot be answered.", "Add --yes."
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def read_prompt(
    words: list[str] | None, option: str | None, escapes: bool = True
) -> str:
    """The prompt, from the command line and from text piped to stdin.

    Words are joined with spaces. `-` stands for the piped text, which is separated by
    empty lines from what surrounds it; without `-` it comes first. Both of these ask
    about notes.txt:

        cat notes.txt | dflash-mlx generate "What is missing here?"
        cat notes.txt | dflash-mlx generate "Summarise this:" - "In one sentence."

    Args:
        words: The arguments.
        option: --prompt.
        escapes: Read \\n and \\t in arguments as a new line and a tab, as mlx-lm does.

    Raises:
        PromptError: The prompt is missing, empty, or not valid UTF-8.
        OptionError: The prompt is given twice.
    """
    parts = list(words or ())
    if option is not None:
        if any(part != STDIN for part in parts):
            raise OptionError(
                "The prompt is given twice.", "Drop the argument or --prompt."
            )
        parts.append(option)
    wants_stdin = STDIN in parts
    if not wants_stdin and stdin_has_text():
        parts.insert(0, STDIN)
    if not parts:
        raise PromptError("There is no prompt.", 'Try: dflash-mlx generate "Hello!"')
    if parts.count(STDIN) > 1:
        raise OptionError("- for piped text is given twice.", "Drop one.")
    with contextlib.nullcontext() if wants_stdin else notice_if_slow():
        text = join_parts(parts, escapes)
    if not text.strip():
        raise PromptError("The prompt is empty.", "Write something to answer.")
    return check_utf8(text)


def stdin_has_text() -> bool:
    """Whether stdin is a pipe, a socket or a file, which can be read to its end."""
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def notice_if_slow() -> Iterator[None]:
    """Print a notice if the body waits for stdin.

    Over ssh, or in a program that leaves stdin open, a pipe may never end.
    """
    timer = Timer(PATIENCE, print_notice, [WAITING])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def join_parts(parts: list[str], escapes: bool = True) -> str:
    """The text of a prompt's parts, at most one of which stands for stdin."""
    if parts == [STDIN]:
        return read_stdin()
    at = parts.index(STDIN) if STDIN in parts else len(parts)
    before, after = (" ".join(words) for words in (parts[:at], parts[at + 1 :]))
    if escapes:
        before, after = (
            text.replace("\\n", "\n").replace("\\t", "\t") for text in (before, after)
        )
    piped = read_stdin().rstrip("\n") if at < len(parts) else ""
    return "\n\n".join(text for text in (before, piped, after) if text)


def read_stdin() -> str:
    """The text on stdin.

    Raises:
        PromptError: stdin is a terminal or closed, or its text is not valid.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise PromptError(
            "- stands for piped text, but nothing is piped.",
            'Try: cat FILE | dflash-mlx generate - "What is this?"',
        )
    try:
        return sys.stdin.read().removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise encoding_error(error.encoding) from None


def check_utf8(text: str) -> str:
    """The text, unless it comes from bytes that are not valid UTF-8.

    Raises:
        PromptError: It does.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise encoding_error("utf-8") from None
    return text


def encoding_error(encoding: str) -> PromptError:
    """The error for a prompt that is not valid in the terminal's encoding."""
    return PromptError(
        f"The prompt is not valid {encoding.upper()}.",
        "Convert it, for example with iconv.",
    )
