"""Prompt lookup: what followed the last time that the text said the same.

Owns an index of a text's short runs of tokens. Knows tokens only; whether a proposal is
worth a verify pass is width.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RUN = 3  # tokens that must be the same
LOOKED_AT = 8  # earlier places that are compared, the latest first
LONGEST = 16  # a match beyond this says no more


@dataclass(frozen=True)
class Proposal:
    """Tokens that may follow.

    Args:
        tokens: They, in order; never empty.
        kind: How long the match behind them is; matches of a kind are alike.
    """

    tokens: list[int]
    kind: str

    @property
    def drafts(self) -> int:
        """How many tokens."""
        return len(self.tokens)


class Lookup:
    """The index of a text that grows.

    Args:
        text: Its tokens; the list is read, not copied, and may be added to.
    """

    def __init__(self, text: Sequence[int]):
        self.text = text
        self.places: dict[tuple[int, ...], list[int]] = {}
        self.indexed = RUN - 1  # runs that end before this place are in the index

    def find(self, most: int) -> Proposal | None:
        """What followed the longest match of the text's end: `most` tokens."""
        text, end = self.text, len(self.text)
        self._index(end - 1)
        if end < RUN or most < 1:
            return None
        best, length = 0, 0
        for place in reversed(self.places.get(tuple(text[end - RUN : end]), ())):
            same = self._same(place, end)
            if same > length:
                best, length = place, same
        if not length:
            return None
        kind = "short" if length < 6 else "long" if length < LONGEST else "whole"
        return Proposal(self._after(best, most), kind)

    def _after(self, place, most):
        """`most` tokens from `place` on; what repeats itself goes on doing so."""
        tokens = list(self.text[place : place + most])
        while len(tokens) < most:
            tokens.append(tokens[place - len(self.text)])
        return tokens

    def _index(self, end):
        """Take in the runs that something follows, up to `end`."""
        for at in range(self.indexed + 1, end + 1):
            places = self.places.setdefault(tuple(self.text[at - RUN : at]), [])
            places.append(at)
            if len(places) > LOOKED_AT:
                del places[0]
        self.indexed = max(self.indexed, end)

    def _same(self, place, end):
        """How many tokens before `place` are those before `end`."""
        text, same = self.text, RUN
        while same < LONGEST and same < place:
            if text[place - same - 1] != text[end - same - 1]:
                break
            same += 1
        return same
