"""Undo the tail of a forward pass: one rule per cache kind.

Knows what is inside a target's cache; nothing of models, drafters or tokens. A kind
without a rule is refused by `check`, never passed over: such a model decodes plainly,
and then nothing is ever cut. What recurrent layers hold cannot be cut at all; their
state is put back and replayed from what the block's pass noted (targets/replay.py).
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from .errors import UnsupportedError
from .kv import BoundedKVCache, OrderedKVCache, flat

# Rows past `offset` are dead and are written over by the next pass.
GROWING = (KVCache, QuantizedKVCache)
ROTATING = (RotatingKVCache, BoundedKVCache, OrderedKVCache)
POSITIONAL = (*GROWING, *ROTATING, ConcatenateKVCache, ChunkedKVCache)


def recurrent(cache: list[Any]) -> list[ArraysCache]:
    """The entries that hold a state instead of rows."""
    return [entry for entry in flat(cache) if type(entry) is ArraysCache]


def check(cache: list[Any]) -> None:
    """Raise UnsupportedError if some layer's cache is of a kind without a rule."""
    for entry in flat(cache):
        if type(entry) not in (*POSITIONAL, ArraysCache):
            raise UnsupportedError(
                f"This model keeps a {type(entry).__name__}, a kind of cache that "
                "cannot be rolled back yet.",
                "Run it with --plain.",
            )


def can_cut_to(cache: list[Any], rows: int) -> bool:
    """Whether every layer can be left with its first `rows` rows."""
    return all(
        type(entry) in POSITIONAL and _can_drop(entry, entry.offset - rows)
        for entry in flat(cache)
    )


def cut_to(cache: list[Any], rows: int) -> None:
    """Leave every layer with its first `rows` rows, where `can_cut_to` allows it.

    Layers may hold different numbers of them: a pass may have been interrupted.
    """
    for entry in flat(cache):
        _drop(entry, entry.offset - rows)


def forgets(cache: list[Any]) -> bool:
    """Whether some layer cannot be cut back at will: it holds a state, or a window."""
    return any(
        type(entry) not in (*GROWING, ConcatenateKVCache) for entry in flat(cache)
    )


def snapshot(cache: list[Any]) -> list[Any]:
    """What cutting cannot bring back: states and windows; None for other layers.

    The arrays are not those of the cache, which may be written into.
    """
    return [_own(entry) for entry in flat(cache)]


def restore(cache: list[Any], saved: list[Any], rows: int) -> None:
    """Leave every layer as it was at a snapshot of `rows` rows.

    Layers that only grew since are cut, so they must hold the same first rows still.
    """
    for entry, state in zip(flat(cache), saved, strict=True):
        if type(entry) is ArraysCache:
            put_back(entry, list(state))
        elif state is None:
            _drop(entry, entry.offset - rows)
        else:
            entry.state = tuple(_handle(part) for part in state)


def _own(entry):
    if type(entry) is ArraysCache:
        return held(entry)
    if type(entry) in (*ROTATING, ChunkedKVCache):
        return tuple(_handle(part) for part in entry.state)
    return None


def _handle(part):
    """An array by another name: `a[i] = x` changes what one name stands for."""
    return part[...] if isinstance(part, mx.array) else part


def drop_rows(cache: list[Any], rows: int) -> None:
    """Take the last `rows` rows of a block's pass back, in every layer that has rows.

    Recurrent layers are left as they are.
    """
    for entry in flat(cache):
        if type(entry) is not ArraysCache:
            _drop(entry, rows)


def put_back(entry: ArraysCache, state: list[Any]) -> None:
    """Give a recurrent layer the state that `held` returned."""
    entry.cache[:] = state


def held(entry: ArraysCache) -> list[Any]:
    """The state of a recurrent layer; the arrays themselves never change."""
    return list(entry.cache)


def _can_drop(entry, rows):
    if rows == 0:
        return True
    left = entry.offset - rows
    if rows < 0 or left < 0:
        return False
    if type(entry) is ChunkedKVCache:
        # The next row looks back to the start of its own chunk.
        return left - left % entry.chunk_size >= entry.start_position
    if type(entry) in ROTATING:
        if entry.is_trimmable():
            return True
        # In temporal order, as after a pass of several rows, with a full window left.
        ordered = entry._idx == entry.keys.shape[2]
        return ordered and entry._idx - rows >= min(left, entry.max_size)
    return True


def _drop(entry, rows):
    if not _can_drop(entry, rows):
        raise RuntimeError(
            f"a {type(entry).__name__} of {entry.offset} rows was to lose {rows}"
        )
    if rows == 0:
        return
    if type(entry) in (ConcatenateKVCache, *ROTATING):
        # Their own trim leaves dead rows where the next pass takes them for real.
        end = (entry._idx if type(entry) in ROTATING else entry.offset) - rows
        entry.keys, entry.values = entry.keys[..., :end, :], entry.values[..., :end, :]
        entry.offset -= rows
        if type(entry) in ROTATING:
            entry._idx = end
    else:
        entry.trim(rows)
