"""A text's tokens as an array, which is searched faster than a list.

Owns a copy of the text's end. Does not know what is looked for in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class TokenArray:
    """A copy of the tokens of a growing text, made a part at a time.

    Attributes:
        first, end: The copied part of the text, as indices.
    """

    # Most tokens that one update copies, which takes about 0.7 ms.
    SLICE = 2**15

    def __init__(self):
        self.first = self.end = 0
        self._buffer = np.empty(0, np.int32)

    @property
    def copied(self) -> np.ndarray:
        """The tokens [end - first] from `first` to `end`, int32."""
        return self._buffer[self.first : self.end]

    def cut(self, tokens: int) -> None:
        """Drop all but the text's first `tokens` tokens, since others may follow."""
        self.end = min(self.end, tokens)
        self.first = min(self.first, self.end)

    def update(self, text: Sequence[int]) -> None:
        """Copy at most SLICE tokens that are not copied yet, the last ones first.

        Args:
            text: The text of the last update, longer or cut. Where it was cut and has
                grown again, `cut` must have been called in between.
        """
        self.cut(len(text))
        if len(text) - self.end > self.SLICE:
            self.first = self.end = len(text)  # begin again from the end
        left = self.SLICE - (len(text) - self.end)
        self._copy(text, self.end, len(text))
        self.end = len(text)
        if self.first:
            first = max(0, self.first - left)
            self._copy(text, first, self.first)
            self.first = first

    def _copy(self, text, start, end):
        if end > len(self._buffer):
            larger = np.empty(max(end, 2 * len(self._buffer)), np.int32)
            larger[self.first : self.end] = self.copied
            self._buffer = larger
        tokens = np.fromiter(text[start:end], np.int32, end - start)
        self._buffer[start:end] = tokens
