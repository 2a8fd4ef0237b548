"""Prompt lookup: drafts copied from an earlier place in the text.

Where the text ends with tokens that it has had before, the tokens that followed them
then are proposed. Owns the search, which compares the whole text with its end: an index
of a long prompt would take longer than all searches of an answer. Does not decide
whether a proposal is verified; see controller.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..token_array import TokenArray
from .costs import LOOKUP

NGRAM = 3  # tokens that must be equal
CANDIDATES = 8  # earlier places that are compared, the latest first
LONGEST = 16  # tokens; longer matches are not distinguished


@dataclass(frozen=True)
class Proposal:
    """Drafts that need no drafter: from an earlier place in the text, or forced.

    Args:
        tokens: The drafts, in order. At least one.
        kind: The length of the match: "short", "long" or "whole"; or "forced". Each
            kind has its own acceptance statistics.
        source: LOOKUP, or FORCED for the tokens of a grammar.
    """

    tokens: list[int]
    kind: str
    source: str = LOOKUP


class Lookup:
    """Searches a growing text.

    Args:
        text: All tokens. The list is not copied and may grow between calls.
        tokens: What is copied of this text already, as an array.

    A long text that is not copied yet is searched from its end on: each call searches
    TokenArray.SLICE tokens more.
    """

    def __init__(self, text: Sequence[int], tokens: TokenArray | None = None):
        self.text = text
        self.tokens = TokenArray() if tokens is None else tokens
        self._found: tuple[int, int, int] = (-1, 0, 0)  # of the last search

    def find(self, most: int) -> Proposal | None:
        """Propose the `most` tokens that followed the longest match of the text's end.

        Returns:
            Exactly `most` tokens, or None if nothing matches or `most` is 0.
        """
        end = len(self.text)
        if end < NGRAM or most < 1:
            return None
        if self._found[0] != end:  # a round asks more than once
            self._found = (end, *self._longest_match(end))
        _, best, length = self._found
        if not length:
            return None
        kind = "short" if length < 6 else "long" if length < LONGEST else "whole"
        return Proposal(self._continuation(best, most), kind)

    def _longest_match(self, end):
        """The place behind the longest match of the text's end, and its length; the
        latest of several. Two zeros if there is none."""
        self.tokens.update(self.text)
        best, length = 0, NGRAM - 1
        for place in reversed(self._places()):
            same = self._match_length(place, end)
            if same > length:
                best, length = place, same
        return (best, length) if best else (0, 0)

    def _places(self):
        """The last places behind the n-gram that the text ends with, ascending."""
        known = self.tokens.copied
        rows = max(0, len(known) - NGRAM)  # without the n-gram at the end itself
        equal = known[:rows] == known[-NGRAM]
        for i in range(1, NGRAM):
            equal &= known[i : rows + i] == known[i - NGRAM]
        starts = equal.nonzero()[0][-CANDIDATES:]
        return (starts + (self.tokens.first + NGRAM)).tolist()

    def _continuation(self, place, most):
        """`most` tokens from `place` on; past the text's end they repeat."""
        tokens = list(self.text[place : place + most])
        while len(tokens) < most:
            tokens.append(tokens[place - len(self.text)])
        return tokens

    def _match_length(self, place, end):
        """The number of equal tokens before `place` and before `end`."""
        text, same = self.text, 0
        while same < LONGEST and same < place:
            if text[place - same - 1] != text[end - same - 1]:
                break
            same += 1
        return same
