"""KV caches that options change: bounded, in text order, or quantized.

Owns these kinds of cache, and how an option is applied to a target's cache. Does not
know how rows are removed; see rollback.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from ..errors import OptionError

# Rows at the front that a bounded cache always keeps, as in mlx-lm.
KEPT_ROWS = 4


class BoundedKVCache(RotatingKVCache):
    """mlx-lm's cache for --max-kv-size, with a mask that is right for blocks too.

    The first rows are always kept. mlx-lm's mask hides them from a pass over several
    rows, but not from a pass over one row; in a block they have to be visible.

    Attributes:
        in_block: The current pass is over a block. Other passes use mlx-lm's mask, so
            that plain decoding gives mlx-lm's tokens.
    """

    in_block = False

    def make_mask(
        self, N: int, window_size: int | None = None, return_array: bool = False
    ) -> mx.array | str | None:
        """The mask of N new rows [N, rows], or what mlx-lm uses in its place.

        Raises:
            OptionError: A layer with a sliding window uses this cache too.
        """
        if window_size is not None and window_size != self.max_size:
            raise OptionError(
                "max_kv_size cannot bound this model: its sliding window is a mask "
                "over all rows.",
                "Leave it out.",
            )
        held = min(self.max_size - 1, self.offset)
        if not self.in_block or N == 1 or held + N <= self.max_size:
            return super().make_mask(N, window_size, return_array)
        row = mx.arange(held, held + N)[:, None]
        column = mx.arange(held + N)[None]
        recent = column > row - (self.max_size - self.keep)
        return (column <= row) & (recent | (column < self.keep))


class OrderedKVCache(RotatingKVCache):
    """A sliding window that keeps its rows in the order of the text.

    mlx-lm's window overwrites its oldest row with a single new one. Then the sum over a
    window has another order for a single row than in a block, and other bits.
    """

    def update_and_fetch(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Append rows [1, heads, n, head_dim]; return the rows in the window."""
        return self._update_concat(keys, values)

    def make_mask(
        self, N: int, window_size: int | None = None, return_array: bool = False
    ) -> mx.array | str | None:
        """The mask of N new rows, or what mlx-lm uses in its place."""
        if N > 1 or window_size is None or self.offset < window_size:
            return super().make_mask(N, window_size, return_array)
        rows = min(self.offset + 1, self.max_size)
        return (mx.arange(rows) >= rows - window_size)[None]


def check_quantization(cache: list[Any], bits: int, group_size: int) -> None:
    """Raise OptionError if a cache in use cannot be quantized in this way."""
    for entry in flat(cache):
        if type(entry) is BoundedKVCache:
            raise OptionError(
                "kv_bits and max_kv_size exclude each other.", "Drop one."
            )
        used = type(entry) is QuantizedKVCache and (entry.bits, entry.group_size)
        if used and used != (bits, group_size):
            raise OptionError(
                f"This prompt_cache is already quantized to {used[0]} bits in groups "
                f"of {used[1]}.",
                "Use the same kv_bits and kv_group_size, or a new prompt_cache.",
            )


@contextmanager
def block_masks(cache: list[Any]) -> Iterator[None]:
    """Mark the passes inside this context as passes over blocks."""
    bounded = [entry for entry in flat(cache) if type(entry) is BoundedKVCache]
    for entry in bounded:
        entry.in_block = True
    try:
        yield
    finally:
        for entry in bounded:
            entry.in_block = False


def flat(cache: list[Any]) -> Iterator[Any]:
    """Every cache of every layer; the members of a CacheList one by one."""
    for entry in cache:
        if type(entry) is CacheList:
            yield from flat(entry.caches)
        else:
            yield entry


def bound(cache: list[Any], rows: int) -> None:
    """Bound every layer that sees the whole text to `rows` rows, in place.

    Raises:
        OptionError: There is no such layer.
    """

    def bounded(entry):
        return BoundedKVCache(rows, KEPT_ROWS) if type(entry) is KVCache else entry

    if not any(type(entry) is KVCache for entry in flat(cache)):
        raise OptionError(
            "max_kv_size has nothing to bound: no layer of this model has a growing KV "
            "cache.",
            "Leave it out.",
        )
    _replace(cache, bounded)


def order_windows(cache: list[Any]) -> None:
    """Make every new sliding window an OrderedKVCache, in place."""

    def ordered(entry):
        if type(entry) is RotatingKVCache:
            return OrderedKVCache(entry.max_size, entry.keep)
        return entry

    _replace(cache, ordered)


def quantize(cache: list[Any], bits: int, group_size: int, start: int) -> bool:
    """Quantize every growing cache of `start` rows or more, in place.

    Sliding windows and recurrent states do not change.

    Returns:
        Whether any cache was quantized.
    """

    def long_enough(entry):
        return type(entry) is KVCache and entry.offset >= start

    def quantized(entry):
        if long_enough(entry):
            return entry.to_quantized(group_size=group_size, bits=bits)
        return entry

    if not any(long_enough(entry) for entry in flat(cache)):
        return False
    _replace(cache, quantized)
    return True


def _replace(cache: list[Any], change: Callable[[Any], Any]) -> None:
    for i, entry in enumerate(cache):
        if type(entry) is CacheList:
            inner = list(entry.caches)
            _replace(inner, change)
            entry.caches = tuple(inner)
        else:
            cache[i] = change(entry)
