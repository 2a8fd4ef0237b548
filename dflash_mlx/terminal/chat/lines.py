"""The syntax of a line in a chat: a command with its argument, or a message.

Does not know which commands there are.
"""

from __future__ import annotations

import re

# Lines that mean a command: the letters of mlx-lm's chat, the words of llm's.
WORDS = {
    "q": "/quit",
    "r": "/reset",
    "h": "/help",
    "exit": "/quit",
    "quit": "/quit",
}
# Other names of commands, as in ollama.
ALIASES = {"?": "help", "bye": "quit", "exit": "quit", "clear": "reset"}
# Encloses a message of several lines, in which no commands are read.
QUOTES = '"""'


def parse_command(line: str, words: bool = True) -> tuple[str, str] | None:
    """The name and the argument of a command; None if the line is a message.

    Paths and comments that begin with a slash are messages.

    Args:
        line: The line.
        words: Read the lines in WORDS as commands.
    """
    if words:
        line = WORDS.get(line, line)
    match = re.fullmatch(r"/([A-Za-z]+|\?)(?:\s+(.*))?", line, re.DOTALL)
    if match is None:
        return None
    name = match[1].lower()
    return ALIASES.get(name, name), (match[2] or "").strip()


def is_open(line: str) -> bool:
    """Whether a line begins a message in QUOTES that is not closed yet."""
    if not line.startswith(QUOTES):
        return False
    closed = len(line) >= 2 * len(QUOTES) and line.rstrip().endswith(QUOTES)
    return not closed and line.count(QUOTES) == 1


def message_of(line: str) -> str:
    """The message that a line sends.

    A leading // stands for a slash. QUOTES around a message are removed, with the line
    ends next to them.
    """
    text = line.rstrip()
    if text.startswith(QUOTES) and text.endswith(QUOTES):
        if len(text) >= 2 * len(QUOTES):
            inside = text[len(QUOTES) : -len(QUOTES)]
            return inside.removeprefix("\n").removesuffix("\n")
        return ""
    return line[1:] if line.startswith("//") else line


def line_of(message: str) -> str:
    """The line that sends a message: the reverse of message_of."""
    if message.startswith(QUOTES):
        return f"{QUOTES}{message}{QUOTES}"
    return f"/{message}" if message.startswith("/") else message
