"""Turns tokens into text, and stops at stop strings.

A stop string may begin in one token or block and end in another. Owns the text that is
held back until that is decided. Does not know models or rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..types import require


class TextStream:
    """Detokenizes token by token and watches for stop strings.

    Text that may be the beginning of a stop string is held back until the next tokens
    decide, so no part of a stop string is ever returned.

    Args:
        detokenizer: A new one, from mlx-lm's TokenizerWrapper.
        stop: Strings that end the text. They are not part of it.

    Attributes:
        stop_string: The stop string that ended the text, or None.

    Raises:
        OptionError: A stop string is empty.
    """

    def __init__(self, detokenizer: Any, stop: Sequence[str] = ()):
        require(all(stop), "a stop string", "at least one character", "")
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self.stop_string: str | None = None

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token; return the text that is certain now and whether it ends here."""
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> tuple[str, bool]:
        """End the text; return the rest of it, and whether a stop string ended it."""
        self._detokenizer.finalize()
        text, stopped = self._release(self._detokenizer.last_segment)
        if not stopped:
            text, self._held = text + self._held, ""
        return text, stopped

    def _release(self, segment):
        text = self._held + segment
        found = [(at, s) for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self._held = ""
            at, self.stop_string = min(found)
            return text[:at], True
        keep = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def overlap(text: str, stop: str) -> int:
    """The length of the longest proper prefix of `stop` that `text` ends with."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
