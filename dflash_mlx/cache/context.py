"""The one cache that drafters use: keys and values of committed rows.

Holds committed rows only, so it never needs a rollback. Knows positions, not tokens.
"""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from .state import State, own


class ContextCache:
    """Keys and values of committed rows in temporal order, with absolute positions.

    Rows may be skipped, so that positions have gaps.

    Args:
        window: Rows that stay visible; None keeps all. Older rows are dropped a
            buffer's worth at a time, so appending stays cheap.
    """

    SLACK = 256

    def __init__(self, window: int | None = None):
        self.window = window
        self.offset = 0  # the absolute position of the next row
        self._rows = KVCache()
        self._runs: list[list[int]] = []  # [first position, rows], in order

    def append(self, keys: mx.array, values: mx.array) -> None:
        """Add rows [1, heads, n, head_dim] at positions offset..offset + n - 1."""
        self._rows.update_and_fetch(keys, values)
        if self._runs and sum(self._runs[-1]) == self.offset:
            self._runs[-1][1] += keys.shape[2]
        else:
            self._runs.append([self.offset, keys.shape[2]])
        self.offset += keys.shape[2]
        if self.window and self._rows.offset > self.window + self.SLACK:
            keys, values = self.fetch()
            runs = behind(self._runs, self._rows.offset - keys.shape[2])
            self._rows, self._runs = holding(keys, values), runs

    def skip(self, rows: int) -> None:
        """Advance over rows that no block will see, or whose features are lost."""
        self.offset += rows

    def cut(self, rows: int) -> None:
        """Go back by `rows` positions; what is held of them goes."""
        self.offset -= rows
        held = 0
        for run in self._runs:
            run[1] = max(0, min(run[1], self.offset - run[0]))
            held += run[1]
        self._runs = [run for run in self._runs if run[1]]
        self._rows.trim(self._rows.offset - held)

    def fetch(self) -> tuple[mx.array, mx.array] | None:
        """Visible keys and values [1, heads, m, head_dim], or None when empty."""
        if self._rows.offset == 0:
            return None
        keys, values = self._rows.keys_and_values()
        if self.window:
            keys, values = keys[..., -self.window :, :], values[..., -self.window :, :]
        return keys, values

    def positions(self) -> mx.array:
        """Positions [m] of the rows that `fetch` gives."""
        runs = [mx.arange(first, first + rows) for first, rows in self._runs]
        held = mx.concatenate(runs) if runs else mx.zeros((0,), mx.int32)
        return held[-self.window :] if self.window else held

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate so that no graph hangs on this cache."""
        return [] if self._rows.keys is None else [self._rows.keys, self._rows.values]

    def read(self) -> State:
        """What a block can see, in arrays of their own; lazy."""
        keys, values = self.fetch() or (None, None)
        unseen = self._rows.offset - (0 if keys is None else keys.shape[2])
        runs = behind(self._runs, unseen)
        numbers = {"offset": self.offset, "window": self.window, "runs": runs}
        return State("ContextCache", numbers, (own(keys), own(values)))

    def put_back(self, state: State) -> None:
        """Hold what `read` found in a context of the same window."""
        rows = holding(*(own(array) for array in state.arrays))
        runs = [list(run) for run in state.numbers["runs"]]
        self._rows, self._runs, self.offset = rows, runs, state.numbers["offset"]

    def seen(self, rows: int) -> int:
        """How many of the last `window` of the first `rows` positions are held."""
        return rows_seen(self._runs, rows, self.window)


def holding(keys: mx.array | None, values: mx.array | None) -> KVCache:
    """A cache of these rows; None for none."""
    cache = KVCache()
    if keys is not None:
        cache.update_and_fetch(keys, values)
    return cache


def behind(runs: list[list[int]], rows: int) -> list[list[int]]:
    """What is left of `runs` without their first `rows` rows."""
    left = []
    for first, length in runs:
        gone = min(rows, length)
        rows -= gone
        if length > gone:
            left.append([first + gone, length - gone])
    return left


def rows_seen(runs: list[list[int]], rows: int, window: int | None) -> int:
    """How many of the last `window` of the first `rows` positions are in `runs`.

    Args:
        runs: [first position, rows] each.
        rows, window: Window None is all.
    """
    start = 0 if window is None else max(0, rows - window)
    return sum(
        max(0, min(first + length, rows) - max(first, start)) for first, length in runs
    )
