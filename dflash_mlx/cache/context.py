"""The cache of a drafter's layer: keys and values of committed rows.

Holds committed rows only, so it never needs a rollback. Knows positions; does not know
tokens.
"""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.models.cache import KVCache

from .state import State, independent


class ContextCache:
    """Keys and values of committed rows in the order of the text.

    Every row has its absolute position. Rows may be skipped, which leaves gaps.

    Args:
        window: The number of last rows that are visible; None is all. Older rows are
            dropped SLACK rows at a time, which keeps appending cheap. The rest is
            copied into a buffer with room for all rows until the next time.

    Attributes:
        offset: The position of the next row.
    """

    SLACK = 256
    BLOCK = 32  # rows of a block that are written behind the context, at most

    def __init__(self, window: int | None = None):
        self.window = window
        self.offset = 0
        self._rows = KVCache()
        self._runs: list[list[int]] = []  # [first position, number of rows]

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
            dropped = self._rows.offset - keys.shape[2]
            runs = without_first_rows(self._runs, dropped)
            room = self.window + self.SLACK + self.BLOCK
            self._rows, self._runs = new_cache(keys, values, room), runs

    def skip(self, rows: int) -> None:
        """Advance over rows that no block will see, or that have no features."""
        self.offset += rows

    def cut(self, rows: int) -> None:
        """Go back by `rows` positions and drop the rows there."""
        self.offset -= rows
        held = 0
        for run in self._runs:
            run[1] = max(0, min(run[1], self.offset - run[0]))
            held += run[1]
        self._runs = [run for run in self._runs if run[1]]
        self._rows.trim(self._rows.offset - held)

    def fetch(self) -> tuple[mx.array, mx.array] | None:
        """The visible keys and values [1, heads, m, head_dim]; None if empty."""
        if self._rows.offset == 0:
            return None
        keys, values = self._rows.keys_and_values()
        if self.window:
            keys, values = keys[..., -self.window :, :], values[..., -self.window :, :]
        return keys, values

    def followed_by(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array]:
        """The visible keys and values with those of a block [1, heads, n, head_dim]
        behind them.

        The block's rows are written behind the committed rows, into the same buffer,
        where the next rows overwrite them. A copy of the whole context for every block
        would need a slightly larger buffer each time, which MLX cannot take from those
        it has freed.
        """
        held = self._rows.offset
        if held == 0:
            return keys, values
        keys, values = self._rows.update_and_fetch(keys, values)
        self._rows.offset = held
        first = max(0, held - self.window) if self.window else 0
        return keys[..., first:, :], values[..., first:, :]

    def positions(self) -> mx.array:
        """The positions [m] of the visible rows."""
        runs = [mx.arange(first, first + rows) for first, rows in self._runs]
        held = mx.concatenate(runs) if runs else mx.zeros((0,), mx.int32)
        return held[-self.window :] if self.window else held

    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate, so that this cache keeps no graph alive."""
        return [] if self._rows.keys is None else [self._rows.keys, self._rows.values]

    def read(self) -> State:
        """Copy the visible rows. Lazy; later changes of this cache do not matter."""
        keys, values = self.fetch() or (None, None)
        unseen = self._rows.offset - (0 if keys is None else keys.shape[2])
        runs = without_first_rows(self._runs, unseen)
        numbers = {"offset": self.offset, "window": self.window, "runs": runs}
        return State("ContextCache", numbers, (independent(keys), independent(values)))

    def put_back(self, state: State) -> None:
        """Replace the contents by what `read` copied from a context of this window."""
        rows = new_cache(*(independent(array) for array in state.arrays))
        runs = [list(run) for run in state.numbers["runs"]]
        self._rows, self._runs, self.offset = rows, runs, state.numbers["offset"]

    def seen(self, rows: int) -> int:
        """The number of rows that would be visible after a cut to `rows` positions."""
        return visible_rows(self._runs, rows, self.window)


def new_cache(
    keys: mx.array | None, values: mx.array | None, room: int = KVCache.step
) -> KVCache:
    """A cache with these rows; empty for None.

    Args:
        room: The number of rows that its buffer is made for, and grows by.
    """
    cache = KVCache()
    cache.step = room
    if keys is not None:
        cache.update_and_fetch(keys, values)
    return cache


def without_first_rows(runs: list[list[int]], rows: int) -> list[list[int]]:
    """The runs without their first `rows` rows."""
    left = []
    for first, length in runs:
        dropped = min(rows, length)
        rows -= dropped
        if length > dropped:
            left.append([first + dropped, length - dropped])
    return left


def visible_rows(runs: list[list[int]], rows: int, window: int | None) -> int:
    """The number of rows in `runs` that a block after `rows` positions can see.

    Args:
        runs: [first position, number of rows] of each run.
        rows: The number of positions before the block.
        window: The number of last positions that are visible; None is all.
    """
    start = 0 if window is None else max(0, rows - window)
    return sum(
        max(0, min(first + length, rows) - max(first, start)) for first, length in runs
    )
