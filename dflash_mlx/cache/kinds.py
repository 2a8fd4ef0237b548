"""KV caches that options ask for: bounded to a number of rows, or quantized.

Owns what the options do to a fresh or growing cache. Undoing rows is rollback.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache, RotatingKVCache

from ..errors import OptionError

# Rows at the front that a bounded cache never gives up, as in mlx-lm.
KEPT_ROWS = 4


class BoundedKVCache(RotatingKVCache):
    """mlx-lm's cache of --max-kv-size, right for blocks as well.

    Its front rows stay for ever. mlx-lm's mask for a pass of several rows hides them
    behind the window, which passes of one row do not; inside a block they are seen.

    Attributes:
        in_block: The pass under way is over a block. The prompt's passes keep mlx-lm's
            mask, so that plain decoding says what mlx-lm says.
    """

    in_block = False

    def make_mask(
        self, N: int, window_size: int | None = None, return_array: bool = False
    ) -> mx.array | str | None:
        """The mask of N new rows [N, rows], or what mlx-lm takes in its place.

        Raises:
            OptionError: A sliding window looks at this cache too.
        """
        if window_size is not None and window_size != self.max_size:
            raise OptionError(
                "max_kv_size cannot bound this model: it keeps whole rows and hides "
                "them behind a sliding window.",
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
    """A sliding window whose rows always lie in the order of the text.

    mlx-lm's writes a single row over the oldest one, so that a row's sum over its
    window runs in another order than it does inside a block.
    """

    def update_and_fetch(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Append rows [1, heads, n, head_dim]; what the window holds then."""
        return self._update_concat(keys, values)

    def make_mask(
        self, N: int, window_size: int | None = None, return_array: bool = False
    ) -> mx.array | str | None:
        """The mask of N new rows, or what mlx-lm takes in its place."""
        if N > 1 or window_size is None or self.offset < window_size:
            return super().make_mask(N, window_size, return_array)
        rows = min(self.offset + 1, self.max_size)
        return (mx.arange(rows) >= rows - window_size)[None]


def check_quantization(cache: list[Any], bits: int, group_size: int) -> None:
    """Raise OptionError where a cache in use cannot be quantized as asked."""
    for entry in flat(cache):
        if type(entry) is BoundedKVCache:
            raise OptionError(
                "kv_bits and max_kv_size exclude each other.", "Drop one."
            )
        has = type(entry) is QuantizedKVCache and (entry.bits, entry.group_size)
        if has and has != (bits, group_size):
            raise OptionError(
                f"This prompt_cache is quantized to {has[0]} bits in groups of "
                f"{has[1]} already.",
                "Ask for the same, or start with another.",
            )


@contextmanager
def block_masks(cache: list[Any]) -> Iterator[None]:
    """Bounded caches take the passes meanwhile for passes over blocks."""
    bounded = [entry for entry in flat(cache) if type(entry) is BoundedKVCache]
    for entry in bounded:
        entry.in_block = True
    try:
        yield
    finally:
        for entry in bounded:
            entry.in_block = False


def flat(cache: list[Any]) -> Iterator[Any]:
    """Every cache of every layer, those inside a CacheList one by one."""
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
            "max_kv_size has nothing to bound: this model's layers keep no growing "
            "KV cache.",
            "Leave it out.",
        )
    _replace(cache, bounded)


def order(cache: list[Any]) -> None:
    """Make every fresh sliding window an ordered one, in place."""

    def ordered(entry):
        if type(entry) is RotatingKVCache:
            return OrderedKVCache(entry.max_size, entry.keep)
        return entry

    _replace(cache, ordered)


def quantize(cache: list[Any], bits: int, group_size: int, start: int) -> bool:
    """Quantize every growing cache of `start` rows or more, in place; whether any was.

    Sliding windows and recurrent states stay as they are.
    """

    def ripe(entry):
        return type(entry) is KVCache and entry.offset >= start

    def quantized(entry):
        if ripe(entry):
            return entry.to_quantized(group_size=group_size, bits=bits)
        return entry

    if not any(ripe(entry) for entry in flat(cache)):
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
