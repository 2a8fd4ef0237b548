"""The syntax of a line in a chat: a command with its argument, or a message.

Does not know which commands there are.
"""

from __future__ import annotations

import re

# Commands of mlx-lm's chat; each is a line of one letter.
LETTERS = {"q": "/quit", "r": "/reset", "h": "/help"}


def parse_command(line: str) -> tuple[str, str] | None:
    """The name and the argument of a command; None if the line is a message.

    Paths and comments that begin with a slash are messages.
    """
    line = LETTERS.get(line, line)
    match = re.fullmatch(r"/([A-Za-z]+)(?:\s+(.*))?", line, re.DOTALL)
    if match is None:
        return None
    return match[1].lower(), (match[2] or "").strip()


def message_of(line: str) -> str:
    """The message that a line sends; a leading // stands for a slash."""
    return line[1:] if line.startswith("//") else line


def line_of(message: str) -> str:
    """The line that sends a message: the reverse of message_of."""
    return f"/{message}" if message.startswith("/") else message
