"""Which tokens a pair's caches hold, and how much of them a new prompt can keep.

Knows tokens and rows. What is inside a cache is rollback.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import rollback
from .pair import Pair


class PromptCache:
    """The caches of one conversation: target and drafter, always in step.

    Attributes:
        tokens: The tokens whose rows the target's cache holds.
        tail: Tokens that were produced but not passed through the target yet (the
            last one of an answer); they are fed first next time.
        target: The target's cache, one entry a layer.
        drafter: The drafter's context; empty without a drafter.
    """

    def __init__(self, pair: Pair):
        self._pair = pair
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.tokens: list[int] = []
        self.tail: list[int] = []
        self.target = self._pair.target.make_cache()
        drafter = self._pair.drafter
        self.drafter = drafter.make_cache() if drafter else []

    def reuse(self, prompt: Sequence[int]) -> list[int]:
        """Keep the longest common prefix with `prompt`; return what is left of it.

        At least one token is left, since its row gives the first logits. Caches
        that cannot be cut back so far are started afresh.
        """
        keep = common_prefix(self.tokens, prompt)
        keep = min(keep, len(prompt) - 1)
        drop = len(self.tokens) - keep
        self.tail = []
        if drop:
            if not all(entry.cut(drop) for entry in self.drafter):
                self.reset()
                return list(prompt)
            rollback.cut(self.target, drop)
            del self.tokens[keep:]
        return list(prompt[keep:])


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items two sequences share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
