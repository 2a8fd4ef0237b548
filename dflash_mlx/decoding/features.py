"""Features of committed rows on their way to the drafter.

Owns those that the drafter lacks: of the prompt's last pass, for which the first token
does not wait, and of the rounds since its last draft. Does not know who computed them.
"""

from __future__ import annotations

import mlx.core as mx

from ..cache.prompt_cache import PromptCache
from ..models.drafters.base import Drafter

# Rows whose features are collected before the drafter gets them.
MOST_ROWS = 64


class FeatureQueue:
    """Hands features to a drafter in the order of the text.

    Args:
        drafter: None if nothing is drafted; features are then dropped.
        cache: Has the drafter's context.

    Attributes:
        prompt: Features [1, n, F] of the prompt's last pass, computed with it.
        rounds: Features of committed rounds, which may be pending.
    """

    def __init__(self, drafter: Drafter | None, cache: PromptCache):
        self.drafter, self.cache = drafter, cache
        self.prompt: mx.array | None = None
        self.rounds: list[mx.array] = []
        self._mark: int | None = None  # a snapshot is due before the prompt's last row

    def extend(self, features: mx.array, rows: int, visible: int) -> None:
        """Give the drafter the last `visible` of `rows` committed rows now."""
        if kept := self._skip(features, rows, visible):
            self.drafter.extend(*kept, self.cache.drafter)

    def keep(self, features: mx.array, rows: int, visible: int) -> None:
        """Keep the last `visible` rows of the prompt's last pass until `flush`. To be
        called before they count as the cache's rows."""
        [self.prompt] = self._skip(features, rows, visible) or [None]
        if self.cache.to_mark() == rows - 1:
            self._mark = self.cache.rows + rows - 1

    def _skip(self, features, rows, visible):
        """Skip the rows that no block will see; the others, in a list."""
        if self.drafter is None:
            return []
        for entry in self.cache.drafter:
            entry.skip(rows - visible)
        return [features[:, -visible:]] if visible else []

    def add(self, features: mx.array) -> None:
        """Add the features [1, n, F] of a round's rows."""
        if self.drafter is None:
            return
        self.rounds.append(features)
        if sum(each.shape[1] for each in self.rounds) >= MOST_ROWS:
            self.flush()
            mx.async_eval(self.contexts())

    def flush(self) -> None:
        """Give the drafter everything that it lacks."""
        if self.prompt is not None:
            features, self.prompt = self.prompt, None
            if self._mark is not None:
                if features.shape[1] > 1:
                    self.drafter.extend(features[:, :-1], self.cache.drafter)
                self.cache.snapshot(self._mark)
                features, self._mark = features[:, -1:], None
            self.drafter.extend(features, self.cache.drafter)
        if self.rounds:
            features, self.rounds = mx.concatenate(self.rounds, axis=1), []
            self.drafter.extend(features, self.cache.drafter)

    def contexts(self) -> list[mx.array]:
        """The arrays of the drafter's context."""
        return [array for entry in self.cache.drafter for array in entry.arrays()]
