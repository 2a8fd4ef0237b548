"""Drafts that are chosen from left to right, for several texts at once.

Owns the order in which the rows of several blocks are visited, and the drafts that are
chosen so far. Does not know how the rows are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import mlx.core as mx

from .base import Request
from .layers import split_at


class Walk:
    """The drafts of several texts, a slot of all texts at a time.

    Rows are ordered by slot: the first draft of every text, then the second one of
    every text that has one, and so on.

    Args:
        requests: The widest first, so that the texts that have a slot are the first
            ones.
    """

    def __init__(self, requests: Sequence[Request]):
        self.requests = requests
        self._chosen = [[request.anchor[None]] for request in requests]
        self._lengths = [request.width - 1 for request in requests]
        # The number of texts that have each slot.
        self._texts = [1] * self._lengths[0]
        for length in self._lengths[1:]:
            self._texts[:length] = [n + 1 for n in self._texts[:length]]

    def by_slot(self, rows: mx.array) -> mx.array:
        """Order rows [1, n, ...] by slot that lie one text behind the other."""
        if len(self.requests) == 1:
            return rows
        first = [0, *accumulate(self._lengths)]
        order = [
            first[text] + slot
            for slot, texts in enumerate(self._texts)
            for text in range(texts)
        ]
        return rows[:, mx.array(order)]

    def split(self, rows: mx.array) -> list[mx.array]:
        """The rows [1, texts, ...] of each slot."""
        return split_at(rows, self._texts)

    def __iter__(self) -> Iterator[mx.array]:
        """For each slot, the tokens before it [texts]. `choose` has to be called once
        for each."""
        for texts in self._texts:
            before = [chosen[-1] for chosen in self._chosen[:texts]]
            yield mx.concatenate(before, axis=None)

    def choose(
        self, choose_tokens: Callable, logits: mx.array, ids: mx.array | None = None
    ) -> None:
        """Choose the draft of each text that has the current slot.

        Args:
            choose_tokens: As DFlash.choose_tokens.
            logits: [1, texts, V], or [1, texts, k] over the candidates `ids`.
            ids: [1, texts, k], or None for the whole vocabulary.
        """
        sizes, slots = [1] * logits.shape[1], [len(self._chosen[0])]
        rows = split_at(logits, sizes)
        candidates = [None] * len(sizes) if ids is None else split_at(ids, sizes)
        for i, row in enumerate(rows):
            choose = self.requests[i].choose
            self._chosen[i].append(choose_tokens(choose, row, slots, candidates[i]))

    def drafts(self) -> list[mx.array]:
        """The drafts [1, width - 1] of each text."""
        return [mx.concatenate(chosen[1:], axis=1) for chosen in self._chosen]
