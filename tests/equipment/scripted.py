"""A drafter that proposes a known text, with a planned number of correct drafts.

With it, tests can draft for any model and produce every acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from dflash_mlx.cache.context import ContextCache


class Script:
    """A drafter of a known text.

    Args:
        text: The expected token ids, prompt included.
        plan: Number of correct drafts in each round, repeated.
        block_size: Rows of a block.
        taps: Tapped layers, so that features are tested too.
        vocab: Size of the vocabulary; wrong drafts are below it.
    """

    def __init__(
        self,
        text: Sequence[int],
        plan: Sequence[int],
        block_size: int = 8,
        taps: tuple[int, ...] = (1,),
        vocab: int = 96,
    ):
        self.text, self.plan, self.vocab = list(text), list(plan), vocab
        self.block_size, self.taps, self.window = block_size, taps, None
        self.rounds = 0

    def bind(self, embed, head):
        """Does nothing: the text is known."""

    def make_cache(self):
        """A cache that only counts rows."""
        return [ContextCache()]

    def extend(self, features, cache):
        """Count the committed rows."""
        assert features.shape[2] % max(len(self.taps), 1) == 0
        cache[0].skip(features.shape[1])

    def propose(self, anchor, cache, width, choose):
        """The next tokens of the text; those after the planned number are wrong."""
        at = cache[0].offset + 1
        assert anchor.item() == self.text[at - 1]
        correct = self.plan[self.rounds % len(self.plan)]
        self.rounds += 1
        known = self.text[at : at + width - 1]
        known += [0] * (width - 1 - len(known))
        ids = [(token + (i >= correct)) % self.vocab for i, token in enumerate(known)]
        return mx.array([ids], dtype=mx.uint32)
