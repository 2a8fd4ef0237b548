"""The drafter contract: what a drafter offers, and how it asks for tokens.

A drafter sees features of committed tokens only, and its cache holds nothing else, so
it never needs a rollback. Does not know the target, except for its embedding and head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import mlx.core as mx

from ...cache.context import ContextCache

# choose(logits [1, n, V], slots, ids=None) -> ids [1, n]: the caller chooses tokens.
# `slots` numbers the drafts of the block, from 1. With candidates `ids` [1, n, k] the
# logits are [1, n, k] over them.
Choose = Callable[..., mx.array]


class Drafter(Protocol):
    """What the loop needs of a drafter."""

    @property
    def taps(self) -> tuple[int, ...]:
        """0-based target layers whose output the drafter reads, in order. May be
        empty."""

    @property
    def block_size(self) -> int:
        """Rows of the blocks that it was trained for, the anchor included."""

    @property
    def window(self) -> int | None:
        """The number of last committed rows that it can see; None is all."""

    def bind(self, embed: Callable, head: Callable) -> None:
        """Set the target's embedding ([1, n] -> [1, n, H]) and head."""

    def make_cache(self) -> list[ContextCache]:
        """Make an empty context. The loop skips and cuts its entries itself."""

    def extend(self, features: mx.array, cache: list[ContextCache]) -> None:
        """Add the features [1, n, len(taps) * H] of n newly committed tokens."""

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Draft the tokens after `anchor` [1]: ids [1, width - 1]."""


@runtime_checkable
class Confident(Protocol):
    """A drafter that can estimate the acceptance of its drafts."""

    @property
    def confident(self) -> bool:
        """Whether this checkpoint has what the estimate needs."""

    def propose_with_confidence(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> tuple[mx.array, mx.array]:
        """As `propose`: ids [1, width - 1], and for each draft the probability
        [1, width - 1] that it is accepted if all drafts before it are."""


class Request(NamedTuple):
    """The drafts that one text asks for: the arguments of `Drafter.propose`."""

    anchor: mx.array
    cache: list[ContextCache]
    width: int
    choose: Choose


# The drafts of one text [1, width - 1], and the confidence in each or None.
Drafts = tuple[mx.array, mx.array | None]


@runtime_checkable
class Batched(Protocol):
    """A drafter that drafts for several texts in one pass; see batched.py.

    Whoever changes `propose` or `extend` in a subclass changes these too.
    """

    def propose_many(
        self, requests: Sequence[Request], with_confidence: bool = False
    ) -> list[Drafts]:
        """As `propose` for each request, and `propose_with_confidence` on request.

        Args:
            requests: Of widths of 2 or more, the widest first.
            with_confidence: Also compute the confidence, if there is any.
        """

    def extend_many(
        self, features: Sequence[mx.array], caches: Sequence[list[ContextCache]]
    ) -> None:
        """As `extend` for each text."""
