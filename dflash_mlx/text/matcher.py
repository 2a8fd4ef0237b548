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

DEAD_END = "NoExtensionBias"  # llguidance's word for a mask without a token
NO_TOKEN = "The grammar allows no token of this model here, so the answer cannot go on."


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
        base: llguidance's matcher before the first token; only copied.
        markers: What the grammar begins behind; None for the first token.

    Attributes:
        active: Whether the next token is chosen under a mask.
    """

    def __init__(
        self, vocabulary: Vocabulary, base: LLMatcher, markers: Markers | None = None
    ):
        self.vocabulary, self._base, self._markers = vocabulary, base, markers
        # The token that would switch the masks off, at the beginning of the answer.
        self._opening = markers and markers.opening
        self.active = markers is None or self._opening is not None
        self._partial = b""  # the text's end, if it may be the beginning of a marker
        self._matcher = base.deep_copy()
        self._followed: list[int] = []  # what that has consumed of committed tokens
        self._buffer = np.zeros((1, (len(vocabulary) + 31) // 32), np.int32)
        self._rows: list[np.ndarray] = []  # masks of the last walk
        self._width = 0  # ... and the tokens that they are for

    def walk(self, drafts: Sequence[int], width: int) -> Walk:
        """The leading drafts that are legal, and the masks of the rows before, between
        and behind them. Does not change the matcher's place.

        Args:
            drafts: Token ids that may follow the committed tokens.
            width: Tokens that the logits have.

        Raises:
            GrammarError: No token is legal after the committed ones.
        """
        before = self.active, self._partial, self._opening
        self._rows, self._width = [], width
        consumed: list[int] = []
        masked = False
        try:
            for draft in (*drafts, None):
                row = self._mask(width)
                masked = masked or row is not None
                self._rows.append(everything(width) if row is None else row)
                if draft is None or not has(self._rows[-1], draft, width):
                    break
                if draft in self.vocabulary.eos:
                    self._rows.append(self._rows[-1])  # of no use: nothing follows
                    break
                consumed += self._advance(draft)
        except GrammarError:
            if not self._rows:
                raise
            # The last draft leads to a place where no token is legal. It is dropped,
            # and the answer fails there if it is the target's choice.
            self._matcher = self._base.deep_copy()
            consumed, _ = [], self._consume(self._followed)
        finally:
            self.active, self._partial, self._opening = before
            self._take_back(len(consumed))
        return Walk(len(self._rows) - 1, np.stack(self._rows) if masked else None)

    def forced(self) -> list[int]:
        """The next tokens, where the grammar allows one text only; may be empty.

        If the answer is complete behind them, a token that ends it is the last one.
        """
        if not self.active or self._opening is not None:
            return []
        tokens = self._matcher.compute_ff_tokens()
        consumed = self._matcher.try_consume_tokens(tokens)
        ended = consumed == len(tokens) and self._matcher.is_stopped()
        self._take_back(consumed)
        return [*tokens, self.vocabulary.end] if ended else tokens

    def accept(self, tokens: Sequence[int]) -> None:
        """Follow a round's tokens, which were chosen by the rows of the last walk.

        Raises:
            GrammarError: One of them is not legal.
        """
        for row, token in zip(self._rows, tokens, strict=False):
            if not has(row, token, self._width):
                raise GrammarError(
                    f"The model chose the token {token}, which the grammar does not "
                    "allow.",
                    "A logits processor may rule out what the grammar needs.",
                )
            if token not in self.vocabulary.eos:
                self._followed += self._advance(token)

    def _advance(self, token) -> list[int]:
        """Follow a token; return what llguidance's matcher has consumed for it."""
        tokens = [token]
        opening, self._opening = self._opening, None
        if opening == token:
            self.active = False
            return []
        if not self.active:
            self._partial, tokens = self._markers.step(self._partial, token)
            if tokens is None:
                return []
            self.active = True
        return self._consume(tokens)

    def _consume(self, tokens):
        if self._matcher.try_consume_tokens(tokens) != len(tokens):
            self._check()
            raise GrammarError(f"The grammar does not allow the tokens {tokens}.")
        return tokens

    def _mask(self, width):
        """The bits of the next token, uint32 [words]; None if any token is legal."""
        if not self.active:
            forbidden = self._markers.forbidden(self._partial)
            row = everything(width) if forbidden else None
            for token in forbidden:
                if token < width:
                    put(row, token, False)
            return row
        fill_next_token_bitmask(self._matcher, self._buffer)
        self._check()
        ends = self._matcher.is_accepting()
        row = everything(width)
        known = self._buffer[0].view(np.uint32)[: len(row)]
        row[: len(known)] &= known
        row[len(known) :] = 0
        for token in self.vocabulary.eos if ends else self.vocabulary.text_eos:
            if token < width:
                put(row, token, ends)
        if self._opening is not None and self._opening < width:
            put(row, self._opening, True)
        if not row.any():
            raise GrammarError(NO_TOKEN)
        return row

    def _take_back(self, consumed):
        if consumed:
            self._matcher.rollback(consumed)
            self._check()

    def _check(self):
        """Raise GrammarError if llguidance's matcher has failed."""
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split("<state>")[0].split())
            if reason.startswith(DEAD_END):
                raise GrammarError(NO_TOKEN)
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
