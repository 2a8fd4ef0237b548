"""Prompt lookup: drafts copied from an earlier place in the text.

Where the text ends with tokens that it has had before, the tokens that followed them
then are proposed. Owns an index of the text's n-grams. Does not decide whether a
proposal is verified; see controller.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 3  # tokens that must be equal
CANDIDATES = 8  # earlier places that are compared, the latest first
LONGEST = 16  # tokens; longer matches are not distinguished


@dataclass(frozen=True)
class Proposal:
    """Drafts from an earlier place in the text.

    Args:
        tokens: The drafts, in order. At least one.
        kind: The length of the match: "short", "long" or "whole". Each kind has its
            own acceptance statistics.
    """

    tokens: list[int]
    kind: str


class Lookup:
    """An index of a growing text.

    Args:
        text: All tokens. The list is not copied and may grow between calls.
    """

    def __init__(self, text: Sequence[int]):
        self.text = text
        self.places: dict[tuple[int, ...], list[int]] = {}
        self.indexed = NGRAM - 1  # n-grams that end before this place are in the index

    def find(self, most: int) -> Proposal | None:
        """Propose the `most` tokens that followed the longest match of the text's end.

        Returns:
            Exactly `most` tokens, or None if nothing matches or `most` is 0.
        """
        text, end = self.text, len(self.text)
        self._index(end - 1)
        if end < NGRAM or most < 1:
            return None
        best, length = 0, 0
        for place in reversed(self.places.get(tuple(text[end - NGRAM : end]), ())):
            same = self._match_length(place, end)
            if same > length:
                best, length = place, same
        if not length:
            return None
        kind = "short" if length < 6 else "long" if length < LONGEST else "whole"
        return Proposal(self._continuation(best, most), kind)

    def _continuation(self, place, most):
        """`most` tokens from `place` on; past the text's end they repeat."""
        tokens = list(self.text[place : place + most])
        while len(tokens) < most:
            tokens.append(tokens[place - len(self.text)])
        return tokens

    def _index(self, end):
        """Add the n-grams that end at `end` or before it."""
        for at in range(self.indexed + 1, end + 1):
            places = self.places.setdefault(tuple(self.text[at - NGRAM : at]), [])
            places.append(at)
            if len(places) > CANDIDATES:
                del places[0]
        self.indexed = max(self.indexed, end)

    def _match_length(self, place, end):
        """The number of equal tokens before `place` and before `end`."""
        text, same = self.text, NGRAM
        while same < LONGEST and same < place:
            if text[place - same - 1] != text[end - same - 1]:
                break
            same += 1
        return same
