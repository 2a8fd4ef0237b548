"""A drafter that knows the text, and is wrong where its plan says so.

For tests of the loop and of targets: any model can be drafted for, and every
acceptance can be made to happen.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from dflash_mlx.cache.context import ContextCache


class Script:
    """Drafts from a known text.

    Args:
        text: The whole sequence, prompt included.
        plan: Correct drafts per round, used in turn.
        block_size: Rows of a block.
        taps: Features to ask for, so that their path is exercised too.
        vocab: Wrong drafts are ids below it.
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
        """The text needs neither."""

    def make_cache(self):
        """One context that only counts."""
        return [ContextCache()]

    def extend(self, features, cache):
        """Count the rows."""
        assert features.shape[2] % max(len(self.taps), 1) == 0
        cache[0].skip(features.shape[1])

    def propose(self, anchor, cache, width, choose):
        """The text's next tokens, as many of them right as the plan says."""
        at = cache[0].offset + 1
        assert anchor.item() == self.text[at - 1]
        right = self.plan[self.rounds % len(self.plan)]
        self.rounds += 1
        known = self.text[at : at + width - 1]
        known += [0] * (width - 1 - len(known))
        ids = [(token + (i >= right)) % self.vocab for i, token in enumerate(known)]
        return mx.array([ids], dtype=mx.uint32)
