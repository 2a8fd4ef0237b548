"""Tokens to text, with stop strings that may straddle tokens and blocks.

Knows a detokenizer; nothing of models or rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..types import require


class TextStream:
    """Streams text and watches for stop strings.

    Text that may be the beginning of a stop string is held back until the next
    tokens decide, so a stop string is never shown, not even in part.

    Args:
        detokenizer: A fresh one, from mlx-lm's TokenizerWrapper.
        stop: Strings that end the text; they are not part of it.

    Raises:
        OptionError: A stop string is empty.
    """

    def __init__(self, detokenizer: Any, stop: Sequence[str] = ()):
        require(all(stop), "a stop string", "at least one character", "")
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""

    def push(self, token: int) -> tuple[str, bool]:
        """Add a token; return (text that is certain now, whether it ends here)."""
        self._detokenizer.add_token(token)
        return self._release(self._detokenizer.last_segment)

    def finish(self) -> tuple[str, bool]:
        """The rest of the text when its tokens end, and whether it stops in it."""
        self._detokenizer.finalize()
        text, stopped = self._release(self._detokenizer.last_segment)
        if not stopped:
            text, self._held = text + self._held, ""
        return text, stopped

    def _release(self, segment):
        text = self._held + segment
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
