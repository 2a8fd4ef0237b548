"""Follows one answer along a grammar, and says which tokens may come next.

Owns the masks of a block's rows, the first draft that is not legal, and the place where
a grammar begins. The matcher's state is that of the committed tokens: drafts are walked
and taken back. Does not know logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask

from ..errors import GrammarError
from .markers import Markers
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Walk:
    """What a grammar says about a block's drafts.

    Args:
        legal: Leading drafts that may be verified.
        masks: [legal + 1, words] bits of the tokens that each row may choose, uint32,
            the lowest bit first; None if every row may choose any token.
    """

    legal: int
    masks: np.ndarray | None


class Matcher:
    """Follows one answer.

    Args:
        vocabulary: The tokenizer's.
        matcher: llguidance's, before the first token. It is changed.
        markers: What the grammar begins behind; None for the first token.

    Attributes:
        active: Whether the next token is chosen under a mask.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: LLMatcher,
        markers: Markers | None = None,
    ):
        self.vocabulary, self._matcher, self._markers = vocabulary, matcher, markers
        self.active = markers is None
        self._partial = b""  # the text's end, if it may be the beginning of a marker
        self._row = np.zeros((1, (len(vocabulary) + 31) // 32), np.int32)

    def walk(self, drafts: Sequence[int], width: int) -> Walk:
        """The leading drafts that are legal, and the masks of the rows before, between
        and behind them. Does not change the matcher.

        Args:
            drafts: Token ids that may follow the committed tokens.
            width: Tokens that the logits have.

        Raises:
            GrammarError: No token is legal after the committed ones.
        """
        before = self.active, self._partial
        rows: list[np.ndarray] = []
        masked, consumed, legal = False, 0, 0
        try:
            while (row := self._mask(width)) is None or row.any():
                masked = masked or row is not None
                rows.append(everything(width) if row is None else row)
                if len(rows) > len(drafts) or not has(rows[-1], drafts[legal], width):
                    break
                legal += 1
                if drafts[legal - 1] in self.vocabulary.eos:
                    rows.append(rows[-1])  # nothing follows: its choice is not used
                    break
                consumed += self._advance(drafts[legal - 1])
        finally:
            self.active, self._partial = before
            self._take_back(consumed)
        if not rows:
            raise GrammarError(
                "The grammar allows no token of this model here, so the answer cannot "
                "go on."
            )
        # A draft that leads to a row without a legal token has no row behind it.
        return Walk(len(rows) - 1, np.stack(rows) if masked else None)

    def accept(self, tokens: Sequence[int]) -> None:
        """Follow committed tokens.

        Raises:
            GrammarError: One of them is not legal.
        """
        for token in tokens:
            if token in self.vocabulary.eos:
                return
            self._advance(token)

    def _advance(self, token) -> int:
        """Follow a token; return how many llguidance's matcher has consumed for it."""
        tokens = [token]
        if not self.active:
            self._partial, tokens = self._markers.step(self._partial, token)
            if tokens is None:
                return 0
            self.active = True
        if self._matcher.try_consume_tokens(tokens) != len(tokens):
            self._check()
            raise GrammarError(
                f"The model chose the token {token}, which the grammar does not allow."
            )
        return len(tokens)

    def _mask(self, width):
        """The bits of the next token, uint32 [words]; None if any token is legal."""
        if not self.active:
            forbidden = self._markers.forbidden(self._partial)
            row = everything(width) if forbidden else None
            for token in forbidden:
                if token < width:
                    put(row, token, False)
            return row
        fill_next_token_bitmask(self._matcher, self._row)
        self._check()
        row, ends = everything(width), self._matcher.is_accepting()
        known = self._row[0].view(np.uint32)[: len(row)]
        row[: len(known)] &= known
        row[len(known) :] = 0
        for token in self.vocabulary.eos if ends else self.vocabulary.text_eos:
            if token < width:
                put(row, token, ends)
        return row

    def _take_back(self, consumed):
        if consumed:
            self._matcher.rollback(consumed)
            self._check()

    def _check(self):
        """Raise GrammarError if llguidance's matcher has failed."""
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split("<state>")[0].split())
            raise GrammarError(f"The grammar cannot be followed: {reason[:300]}.")


def everything(width: int) -> np.ndarray:
    """A mask that allows tokens 0 to `width` - 1."""
    row = np.full((width + 31) // 32, 2**32 - 1, np.uint32)
    row[-1] >>= np.uint32(-width % 32)
    return row


def has(row: np.ndarray, token: int, width: int) -> bool:
    """Whether a mask allows a token."""
    return token < width and bool(row[token // 32] >> np.uint32(token % 32) & 1)


def put(row: np.ndarray, token: int, allowed: bool) -> None:
    """Allow a token in a mask, or forbid it."""
    bit = np.uint32(1 << (token % 32))
    if allowed:
        row[token // 32] |= bit
    else:
        row[token // 32] &= ~bit
