"""Finds the text that a grammar begins behind, token by token.

Owns how a marker that lies across tokens is recognised, and which tokens may not end
one. Does not know masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llguidance import LLMatcher

from ..errors import GrammarError
from .vocabulary import Vocabulary


class Markers:
    """The texts that a grammar begins behind. Answers share them.

    Args:
        vocabulary: The tokenizer's.
        base: llguidance's matcher before the first token; only copied.
        markers: The texts.
        opening: The token that an answer begins with if it has a marker; None if any
            answer may have one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        base: LLMatcher,
        markers: Sequence[str],
        opening: int | None = None,
    ):
        self.vocabulary, self.base, self.opening = vocabulary, base, opening
        self.markers = [marker.encode() for marker in markers]
        self._beginnings = {m[:i] for m in self.markers for i in range(1, len(m))}
        self.forbidden = cache(self._forbidden)  # of this instance

    def step(self, partial: bytes, token: int) -> tuple[bytes, list[int] | None]:
        """Add a token to a text.

        Args:
            partial: The longest end of the text that may be the beginning of a marker.
            token: The token.

        Returns:
            The next `partial`, and tokens of the text behind the marker that ends in
            this token, for the grammar; None if no marker does.

        Raises:
            GrammarError: One does, and the grammar does not allow the text behind it.
        """
        text = partial + self.vocabulary.text(token)
        rest = self._rest(text)
        if rest is None:
            ends = (text[i:] for i in range(len(text)))
            return next((e for e in ends if e in self._beginnings), b""), None
        tokens = self._tokens_of(rest)
        if tokens is None:
            raise GrammarError(
                f"The model chose {rest!r} behind a marker, which the grammar does not "
                "allow."
            )
        return b"", tokens

    def _rest(self, text):
        """The text behind the first marker that ends in `text`; None if none does."""
        ends = [text.find(m) + len(m) for m in self.markers if m in text]
        return text[min(ends) :] if ends else None

    def _tokens_of(self, rest):
        """Tokens of the text behind a marker, without white space that does not fit;
        None if the text does not fit."""
        for text in (rest, rest.lstrip()):
            tokens = self.vocabulary.tokens.tokenize_bytes(text)
            if self.base.deep_copy().validate_tokens(tokens) == len(tokens):
                return tokens
        return None

    def _forbidden(self, partial: bytes) -> list[int]:
        """The tokens that may not follow `partial`: they would end a marker and go on
        with text that does not fit the grammar."""
        texts, found = self.vocabulary.texts, set()
        for marker in self.markers:
            found.update(self.vocabulary.holding(marker))
            for length in range(1, len(marker)):
                if partial.endswith(marker[:length]):
                    found.update(self.vocabulary.longer_than(marker[length:]))
        rests = {i: self._rest(partial + texts[i]) for i in sorted(found)}
        return [i for i, rest in rests.items() if rest and not self._fits(rest)]

    def _fits(self, rest):
        return self._tokens_of(rest) is not None
