"""What Tab offers at a chat's prompt: commands, settings, their values, files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
)
from prompt_toolkit.document import Document

from .commands import COMMANDS
from .settings import KINDS


class Commands(Completer):
    """Completes lines that begin with a slash."""

    def get_completions(
        self, document: Document, event: CompleteEvent
    ) -> Iterable[Completion]:
        """As prompt_toolkit asks."""
        found = re.fullmatch(r"/([a-z]*)(?:( +)(.*))?", document.text_before_cursor)
        if found is None:
            return
        name, space, rest = found.groups()
        if not space:
            yield from matching(name, (f"{each} " for each in COMMANDS))
        elif name not in COMMANDS:
            return
        elif COMMANDS[name].words is None:
            paths = PathCompleter(expanduser=True)
            yield from paths.get_completions(Document(rest), event)
        else:
            yield from matching(rest.split(" ")[-1], words_behind(name, rest))


def words_behind(name: str, rest: str) -> Iterable[str]:
    """What may follow a command and some words."""
    if name == "help":
        return COMMANDS
    first, space, _ = rest.partition(" ")
    if name == "set" and space:
        return KINDS[first].words if first in KINDS else ()
    return COMMANDS[name].words or ()


def matching(start: str, words: Iterable[str]) -> Iterable[Completion]:
    """Words that begin so."""
    for word in words:
        if word.startswith(start):
            yield Completion(word, start_position=-len(start))
