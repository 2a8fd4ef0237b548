"""Tokens to text, one token at a time, as the tokenizer itself decodes them.

The text of an answer is what `tokenizer.decode` adds to the text of the prompt. So its
first space is kept, and every kind of vocabulary and decoder works. Owns the tokens
whose text is not certain yet. Does not know stop strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Most tokens of a prompt that are decoded together with the answer's first ones, and
# how many may be left out so that they begin with a whole character.
CONTEXT, PARTS = 8, 4
# Most tokens that wait for the end of a character, which has 4 bytes at most.
PATIENCE = 16
INCOMPLETE = "\ufffd"  # what the bytes of an incomplete character decode to
# A space that cleaning up may remove when the next token is known, with the letters
# between: of " .", " n't" and " 're", for instance.
UNCERTAIN = re.compile(r" (n'?|'[vr]?)?$")


class Detokenizer:
    """Decodes an answer token by token.

    Args:
        tokenizer: A Hugging Face tokenizer, or mlx-lm's wrapper of one.
        context: The last tokens of the prompt.

    Attributes:
        last_segment: The text that the last call of a method has added.
    """

    def __init__(self, tokenizer: Any, context: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._cleans = cleans_up(tokenizer)
        self._ids = whole_characters(tokenizer, list(context)[-CONTEXT:])
        self._certain = len(self._ids)  # tokens whose text is returned
        self._shown = len(self._decode().rstrip(INCOMPLETE))  # of the decoded text
        self._lengths: dict[tuple[int, ...], int] = {}  # of the text of certain tokens
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        """Add a token of the answer."""
        self._ids.append(token)
        text = self._decode()
        end = len(text)
        if len(self._ids) - self._certain < PATIENCE:
            end = len(text.rstrip(INCOMPLETE))
        if self._cleans and (found := UNCERTAIN.search(text)):
            end = min(end, found.start())
        self._show(text, end)
        if end == len(text):
            self._forget_context()

    def finalize(self) -> None:
        """End the text."""
        text = self._decode()
        self._show(text, len(text))

    def _forget_context(self):
        """Keep the last certain tokens with a text; what follows does not depend on
        those before."""
        last = self._ids[self._certain :]
        length = self._lengths.get(tuple(last))
        if length is None:  # the same tokens come again and again
            length = self._lengths[tuple(last)] = len(decode(self._tokenizer, last))
        if length:
            self._ids, self._shown = last, length
        self._certain = len(self._ids)

    def _show(self, text, end):
        self.last_segment = text[self._shown : end]
        self._shown = max(self._shown, end)

    def _decode(self):
        return decode(self._tokenizer, self._ids) if self._ids else ""


def whole_characters(tokenizer: Any, ids: list[int]) -> list[int]:
    """The tokens without the first ones, if these are parts of a character."""
    for first in range(min(PARTS, len(ids))):
        if not decode(tokenizer, ids[first:]).startswith(INCOMPLETE):
            return ids[first:]
    return ids


def cleans_up(tokenizer: Any) -> bool:
    """Whether decoding removes spaces before punctuation."""
    sample = tokenizer.decode(tokenizer.encode("a ,b", add_special_tokens=False))
    removed = "," in sample and " ," not in sample
    return removed or bool(tokenizer.clean_up_tokenization_spaces)


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens. Ids that the tokenizer does not know have none."""
    try:
        return tokenizer.decode(ids)
    except (IndexError, TypeError, KeyError, ValueError, OverflowError):
        return tokenizer.decode([i for i in ids if is_known(tokenizer, i)])


def is_known(tokenizer: Any, token: int) -> bool:
    """Whether a tokenizer has a token with this id."""
    try:
        return tokenizer.convert_ids_to_tokens(token) is not None
    except (IndexError, TypeError, KeyError, ValueError, OverflowError):
        return False
