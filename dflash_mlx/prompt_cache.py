"""Which tokens a pair's caches hold, and how much of them a new prompt can keep.

Knows tokens and rows. What is inside a target's cache is rollback.py's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from . import kv, rollback
from .pair import Pair
from .types import require


class Owner(Protocol):
    """A decoding under way."""

    def close(self) -> None:
        """Leave the caches in order and let them go."""


class PromptCache:
    """The caches of one conversation: target and drafter, always in step.

    Args:
        pair: Whose caches.
        max_kv_size: Most rows that a layer of the target keeps; the first
            few and the last ones stay. None keeps all.

    Raises:
        OptionError: max_kv_size is too small, or the target has nothing to bound.

    Attributes:
        tokens: The tokens whose rows the target's cache holds.
        tail: Tokens that were produced but not passed through the target yet (the
            last one of an answer); they are fed first next time.
        target: The target's cache, one entry a layer.
        drafter: The drafter's context; empty without a drafter.
        owner: Who decodes with it now; settles it in the end.
        broken: An interruption left rows that cannot be undone; `reuse` then starts
            afresh, as `reset` does.
    """

    def __init__(self, pair: Pair, max_kv_size: int | None = None):
        require(
            max_kv_size is None or max_kv_size > kv.KEPT_ROWS,
            "max_kv_size",
            f"more than {kv.KEPT_ROWS}",
            max_kv_size,
        )
        self._pair, self.max_kv_size = pair, max_kv_size
        self.owner: Owner | None = None
        self.reset()

    def fits(self, pair: Pair) -> bool:
        """Whether `pair` can go on from these caches."""
        ours = self._pair
        return pair.model is ours.model and pair.drafter is ours.drafter

    def release(self) -> None:
        """End a decoding that is suspended with these caches, as its close does."""
        if self.owner is not None:
            self.owner.close()

    def reset(self) -> None:
        """Forget everything."""
        self.owner = None
        self.tokens: list[int] = []
        self.tail: list[int] = []
        self.broken = False
        self.target = self._pair.target.make_cache(self.max_kv_size)
        drafter = self._pair.drafter
        self.drafter = drafter.make_cache() if drafter else []

    def settle(self) -> None:
        """Make both caches hold exactly `tokens`; the target's if it can be cut."""
        rows = len(self.tokens)
        if rollback.can_cut_to(self.target, rows):
            rollback.cut_to(self.target, rows)
        for entry in self.drafter:
            if entry.offset > rows:
                entry.cut(entry.offset - rows)
            else:
                entry.skip(rows - entry.offset)

    def reuse(self, prompt: Sequence[int]) -> list[int]:
        """Keep the longest common prefix with `prompt`; return what is left of it.

        At least one token is left, since its row gives the first logits. A target's
        cache that cannot be cut back is started afresh. A drafter's context that has
        dropped the rows behind its window may end up knowing only what comes.
        """
        self.release()
        keep = min(common_prefix(self.tokens, prompt), len(prompt) - 1)
        drop = len(self.tokens) - keep
        if self.broken or (drop and not rollback.can_cut_to(self.target, keep)):
            self.reset()
            return list(prompt)
        self.tail = []
        del self.tokens[keep:]
        self.settle()
        return list(prompt[keep:])


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items two sequences share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
