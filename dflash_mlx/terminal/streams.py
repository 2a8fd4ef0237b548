"""Where generate's prompt comes from: the command line, and what is piped.

Owns the order of the two, and the patience with a pipe that has no end. Knows no model.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from threading import Timer

from ..errors import OptionError, PromptError
from .answer_request import note

STDIN = "-"
# Seconds until somebody who piped nothing is told what is waited for.
PATIENCE = 2.0
WAITING = "Waiting for the end of piped text; without any, add </dev/null."


def read_prompt(words: list[str] | None, option: str | None) -> str:
    """The prompt: what was written on the command line, and what is piped.

    Words follow each other with spaces. `-` stands for piped text, which is set off by
    empty lines; without `-` it comes first. So both of these ask about notes.txt:

        cat notes.txt | dflash-mlx generate "What is missing here?"
        cat notes.txt | dflash-mlx generate "Summarise this:" - "In one sentence."

    Args:
        words: The arguments.
        option: --prompt.

    Raises:
        PromptError: There is none, it is empty, or no UTF-8.
        OptionError: It is given twice.
    """
    parts = list(words or ())
    if option is not None:
        if any(part != STDIN for part in parts):
            raise OptionError(
                "The prompt is given twice.", "Drop the argument or --prompt."
            )
        parts.append(option)
    asked = STDIN in parts
    if not asked and piped():
        parts.insert(0, STDIN)
    if not parts:
        raise PromptError("There is no prompt.", 'Try: dflash-mlx generate "Hello!"')
    if parts.count(STDIN) > 1:
        raise OptionError("- stands for piped text twice.", "Leave one of them.")
    with contextlib.nullcontext() if asked else patience():
        text = parts_joined(parts)
    if not text.strip():
        raise PromptError("The prompt is empty.", "Write something to answer.")
    return utf8(text)


def piped() -> bool:
    """Whether stdin is a pipe or a file; a terminal is never waited for."""
    if sys.stdin is None or sys.stdin.isatty():
        return False
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Say what is waited for if the body takes long: over ssh, or in a program that
    leaves stdin open, a pipe may have no end."""
    timer = Timer(PATIENCE, note, [WAITING])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def parts_joined(parts: list[str]) -> str:
    """The text of a prompt's parts, one of which may stand for stdin."""
    if parts == [STDIN]:
        return read_stdin()
    at = parts.index(STDIN) if STDIN in parts else len(parts)
    before, after = (
        " ".join(words).replace("\\n", "\n").replace("\\t", "\t")
        for words in (parts[:at], parts[at + 1 :])
    )
    between = read_stdin().rstrip("\n") if at < len(parts) else ""
    return "\n\n".join(text for text in (before, between, after) if text)


def read_stdin() -> str:
    """What is piped.

    Raises:
        PromptError: Nothing is: stdin is a terminal; or it is no text.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise PromptError(
            "Nothing is piped that - could stand for.",
            'Try: cat FILE | dflash-mlx generate - "What is this?"',
        )
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise not_text(error.encoding) from None


def utf8(text: str) -> str:
    """`text`, unless it came from bytes that are no UTF-8.

    Raises:
        PromptError: Then.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise not_text("utf-8") from None
    return text


def not_text(encoding: str) -> PromptError:
    """The error of a prompt whose bytes are not in the encoding of the terminal."""
    return PromptError(
        f"The prompt is not valid {encoding.upper()}.",
        "Convert it, for example with iconv.",
    )
