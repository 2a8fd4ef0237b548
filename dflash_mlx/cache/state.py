"""What one layer's cache holds, as numbers and arrays: read out, and put back.

Knows what is inside a target's cache, as rollback.py does; nothing of models, tokens or
files. Arrays that were read out are of their own: a cache that goes on, and writes over
rows in place, does not change them.
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
        kind: The name of its class.
        numbers: What is no array, as JSON has it.
        arrays: Keys and values [1, heads, n, head_dim] of rows in the order of the
            text, or a recurrent state's parts; None where there is none yet.
    """

    kind: str
    numbers: dict[str, Any] = field(default_factory=dict)
    arrays: tuple[mx.array | None, ...] = ()

    def held(self) -> Iterator[mx.array]:
        """The arrays that are there."""
        return (array for array in self.arrays if array is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.held())


def own(array: mx.array | None) -> mx.array | None:
    """An array that no write to `array` changes, and that holds no larger one."""
    return None if array is None else mx.contiguous(array)


def read(entry: Any) -> State:
    """The contents of a cache of a kind that rollback.py has a rule for; lazy.

    A rotating window is put into the order of the text and cut to its size, and of a
    chunk the rows are taken that later ones can see.
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
        raise RuntimeError(f"a {kind.__name__} cannot be read out")
    return State(kind.__name__, numbers, tuple(own(array) for array in arrays))


def put_back(entry: Any, state: State) -> None:
    """Give a cache of the same kind and size the contents that `read` found."""
    if type(entry).__name__ != state.kind:
        raise RuntimeError(f"a {state.kind} was to go into a {type(entry).__name__}")
    arrays = [own(array) for array in state.arrays]
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


def grows(entry: Any) -> bool:
    """Whether a cache can be cut anywhere, so that nothing of it need be kept."""
    return type(entry) in CUT_ANYWHERE


def _rows(entry, rows, first=0):
    """The rows that are no dead ones, from the first on; None for none."""
    last = entry.offset
    if type(entry) is ChunkedKVCache:
        last -= entry.start_position
    return None if rows is None or first >= last else rows[..., first:last, :]


def _window(entry, rows):
    """The rows of a rotating window in the order of the text, no more than its size."""
    if rows is None:
        return None
    rows = entry._temporal_order(rows)
    extra = rows.shape[2] - entry.max_size
    return entry._trim(extra, rows) if extra > 0 else rows
