"""A tokenizer's vocabulary as llguidance reads it, built once per tokenizer.

Owns the tokens' bytes. Does not know grammars.
"""

from __future__ import annotations

from bisect import bisect_left
from copy import copy
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from llguidance import LLTokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..errors import GrammarError

_known: WeakKeyDictionary[Any, dict[frozenset[int], Vocabulary]] = WeakKeyDictionary()
_lock = Lock()


class Vocabulary:
    """The tokens of a tokenizer.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper of a fast tokenizer.

    Attributes:
        eos: Tokens that end an answer.
        text_eos: Those of them that are also ordinary text.
        end: The usual one of `eos`.
        tokens: llguidance's form.

    Raises:
        GrammarError: The tokenizer cannot be read, or has no token that ends an answer.
    """

    def __init__(self, tokenizer: TokenizerWrapper):
        eos = [i for i in sorted(tokenizer.eos_token_ids) if i < len(tokenizer)]
        if not eos:
            raise GrammarError(
                "This tokenizer has no token that ends an answer, which grammars need.",
                "Name one with add_eos_token.",
            )
        try:
            self.tokens = LLTokenizer(_description(tokenizer), eos_token=eos)
        except ValueError as error:
            raise GrammarError(
                f"Grammars cannot be used with this tokenizer: {error}."
            ) from None
        self._holders: dict[bytes, list[int]] = {}
        self.eos = frozenset(eos)
        own = tokenizer.eos_token_id
        self.end = own if own in self.eos else eos[0]
        self.text_eos = [i for i in eos if not self.tokens.is_special_token(i)]

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """The vocabulary of a tokenizer. It is built once, which takes a second for
        150,000 tokens.

        Args:
            tokenizer: mlx-lm's TokenizerWrapper, or a Hugging Face tokenizer.

        Raises:
            GrammarError: As in the constructor, or the tokenizer is a slow one.
        """
        key = tokenizer
        if not isinstance(tokenizer, TokenizerWrapper):
            tokenizer = TokenizerWrapper(tokenizer)
        if not tokenizer.is_fast:
            raise GrammarError(
                "Grammars need a tokenizer of the library tokenizers, which this model "
                "does not have.",
                "Use a model with a tokenizer.json.",
            )
        eos = frozenset(tokenizer.eos_token_ids)
        with _lock:
            known = _known.setdefault(key, {})
            if eos not in known:
                known[eos] = cls(tokenizer)
            return known[eos]

    def __len__(self) -> int:
        return self.tokens.vocab_size

    @cached_property
    def texts(self) -> list[bytes]:
        """The bytes of every token; a special token's are its name."""
        return [self.tokens.decode_bytes([i]) for i in range(len(self))]

    def text(self, token: int) -> bytes:
        """The bytes of a token; none for one that only pads the logits."""
        return self.texts[token] if token < len(self) else b""

    def token_of(self, text: str) -> int | None:
        """The token of a text; None if the text is several."""
        tokens = self.tokens.tokenize_str(text, parse_special=True)
        return tokens[0] if len(tokens) == 1 else None

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((text, i) for i, text in enumerate(self.texts))

    def holding(self, text: bytes) -> list[int]:
        """The tokens that have `text` in theirs. It is searched for once."""
        if text not in self._holders:
            found = [i for i, own in enumerate(self.texts) if text in own]
            self._holders[text] = found
        return self._holders[text]

    def longer_than(self, start: bytes) -> list[int]:
        """The tokens that begin with `start` and go on."""
        at, found = bisect_left(self._sorted, (start, len(self))), []
        while at < len(self) and self._sorted[at][0].startswith(start):
            found.append(self._sorted[at][1])
            at += 1
        return found


def _description(tokenizer: TokenizerWrapper) -> str:
    """The content of a tokenizer.json, with the tokens that were added later."""
    backend = copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return backend.to_str()
