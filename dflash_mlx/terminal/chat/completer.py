"""Tab completion in a chat: commands, settings and their values, files.

Owns which words may follow which. The commands are passed in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
)
from prompt_toolkit.document import Document

from .settings import SETTING_TYPES


class CommandCompleter(Completer):
    """Completes lines that begin with a slash.

    Args:
        words: The words that may follow each command; None for a file name.
    """

    def __init__(self, words: Mapping[str, tuple[str, ...] | None]):
        self.words = words

    def get_completions(
        self, document: Document, event: CompleteEvent
    ) -> Iterable[Completion]:
        """The completions of the text before the cursor."""
        match = re.fullmatch(r"/([a-z]*)(?:( +)(.*))?", document.text_before_cursor)
        if match is None:
            return
        name, space, rest = match.groups()
        if not space:
            yield from complete(name, (f"{each} " for each in self.words))
        elif name not in self.words:
            return
        elif self.words[name] is None:
            paths = PathCompleter(expanduser=True)
            yield from paths.get_completions(Document(rest), event)
        else:
            yield from complete(rest.split(" ")[-1], self._words_after(name, rest))

    def _words_after(self, name: str, rest: str) -> Iterable[str]:
        """The words that may follow a command and the `rest` of the line."""
        if name == "help":
            return self.words
        first, space, _ = rest.partition(" ")
        if name == "set" and space:
            return SETTING_TYPES[first].words if first in SETTING_TYPES else ()
        return self.words[name] or ()


def complete(start: str, words: Iterable[str]) -> Iterable[Completion]:
    """Completions with the words that begin with `start`."""
    for word in words:
        if word.startswith(start):
            yield Completion(word, start_position=-len(start))
