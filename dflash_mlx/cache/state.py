"""The contents of one layer's cache as numbers and arrays: copied out, and put back.

Knows the attributes of a target's cache, as rollback.py does. Copied arrays are
independent of the cache, which may overwrite its rows in place later. Does not know
models, tokens or files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
)

from .rollback import CUT_ANYWHERE, ROTATING


@dataclass(frozen=True)
class State:
    """The contents of one cache.

    Args:
        kind: The name of the cache's class.
        numbers: Everything that is not an array; valid JSON.
        arrays: Keys and values [1, heads, n, head_dim] in the order of the text, or the
            parts of a recurrent state. None stands for an array that is not set yet.
    """

    kind: str
    numbers: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[mx.array | None, ...] = ()

    def present_arrays(self) -> Iterator[mx.array]:
        """The arrays that are not None."""
        return (array for array in self.arrays if array is not None)

    @property
    def nbytes(self) -> int:
        """The size of the arrays in bytes."""
        return sum(array.nbytes for array in self.present_arrays())


def independent(array: mx.array | None) -> mx.array | None:
    """A lazy copy that writes to `array` do not change and that keeps no larger
    buffer alive."""
    return None if array is None else mx.contiguous(array)


def read(entry: Any) -> State:
    """Copy the contents of a cache for which rollback.py has a rule. Lazy.

    A rotating window is put into the order of the text and cut to its size. Of a
    chunked cache only the rows are copied that later rows can see.
    """
    kind = type(entry)
    numbers = {"offset": 0 if kind is ArraysCache else entry.offset}
    if kind is ArraysCache:
        arrays = list(entry.cache)
    elif kind in ROTATING:
        numbers |= {"keep": entry.keep, "max_size": entry.max_size}
        arrays = [_window(entry, rows) for rows in (entry.keys, entry.values)]
    elif kind is ChunkedKVCache:
        start = entry.offset - entry.offset % entry.chunk_size
        numbers |= {"chunk_size": entry.chunk_size, "start_position": start}
        first = start - entry.start_position
        arrays = [_rows(entry, rows, first) for rows in (entry.keys, entry.values)]
    elif kind is QuantizedKVCache:
        numbers |= {"bits": entry.bits, "group_size": entry.group_size}
        parts = [*(entry.keys or ()), *(entry.values or ())]
        arrays = [_rows(entry, rows) for rows in parts]
    elif kind in (KVCache, ConcatenateKVCache):
        arrays = [_rows(entry, rows) for rows in (entry.keys, entry.values)]
    else:
        raise RuntimeError(f"cannot read a {kind.__name__}")
    return State(kind.__name__, numbers, tuple(independent(a) for a in arrays))


def put_back(entry: Any, state: State) -> None:
    """Set the contents of a cache of the same kind and size to what `read` copied."""
    if type(entry).__name__ != state.kind:
        raise RuntimeError(f"cannot put a {state.kind} into a {type(entry).__name__}")
    arrays = [independent(array) for array in state.arrays]
    if type(entry) is ArraysCache:
        entry.cache[:] = arrays
        return
    if type(entry) is QuantizedKVCache:
        half = len(arrays) // 2
        entry.keys, entry.values = arrays[:half] or None, arrays[half:] or None
    else:
        entry.keys, entry.values = arrays
    entry.offset = state.numbers["offset"]
    if type(entry) in ROTATING:
        entry._idx = 0 if entry.keys is None else entry.keys.shape[2]
    if type(entry) is ChunkedKVCache:
        entry.start_position = state.numbers["start_position"]


def can_cut_anywhere(entry: Any) -> bool:
    """Whether a cache keeps every row, so that a snapshot does not need it."""
    return type(entry) in CUT_ANYWHERE


def _rows(entry, rows, first=0):
    """The valid rows from the row `first`; None if there are none."""
    last = entry.offset
    if type(entry) is ChunkedKVCache:
        last -= entry.start_position
    return None if rows is None or first >= last else rows[..., first:last, :]


def _window(entry, rows):
    """The rows of a rotating window in the order of the text, cut to its size."""
    if rows is None:
        return None
    rows = entry._temporal_order(rows)
    extra = rows.shape[2] - entry.max_size
    return entry._trim(extra, rows) if extra > 0 else rows
