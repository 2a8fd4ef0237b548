"""The drafter contract, and the one cache that drafters use.

A drafter sees features of committed tokens only, and its cache holds nothing else,
so it never needs a rollback. It knows nothing of the target but two functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import mlx.core as mx

from ...cache.context import ContextCache

# choose(logits [1, n, V], slots, ids=None) -> ids [1, n]: the caller's choice for
# block slots (1-based); with candidates ids [1, n, k], logits are [1, n, k] over them.
Choose = Callable[..., mx.array]


class Drafter(Protocol):
    """What the loop needs of a drafter.

    Attributes:
        taps: 0-based target layers whose output it reads, in order; may be empty.
        block_size: Rows of a block that it was trained for, the anchor included.
        window: How many of the last committed rows it can see; None is all.
    """

    taps: tuple[int, ...]
    block_size: int
    window: int | None

    def bind(self, embed: Callable, head: Callable) -> None:
        """Give it the target's embedding ([1, n] -> [1, n, H]) and head."""

    def make_cache(self) -> list[ContextCache]:
        """A fresh, empty context; the loop skips and cuts its entries itself."""

    def extend(self, features: mx.array, cache: list[ContextCache]) -> None:
        """Add n newly committed tokens: features [1, n, len(taps) * H]."""

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Guess what follows `anchor` [1]: ids [1, width - 1]."""


@runtime_checkable
class Confident(Protocol):
    """A drafter that may say how far its drafts can be trusted.

    Attributes:
        confident: Whether this one does.
    """

    confident: bool

    def propose_with_confidence(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> tuple[mx.array, mx.array]:
        """As propose; ids [1, width - 1], and for each [1, width - 1] the chance that
        it is kept, given that those before it are."""
