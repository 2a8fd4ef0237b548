"""Undo the tail of a forward pass: one rule per cache kind.

Knows what is inside a target's cache; nothing of models, drafters or tokens. A kind
without a rule is refused by `check`, never passed over: such a model decodes plainly,
and then nothing is ever cut. What recurrent layers hold cannot be cut at all; their
state is put back and replayed from what the block's pass noted (targets/replay.py).
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import (
    ArraysCache,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from ..errors import UnsupportedError
from .kinds import BoundedKVCache, OrderedKVCache, flat

# They keep every row; what is past `offset` is dead, and written over by the next pass.
CUT_ANYWHERE = (KVCache, QuantizedKVCache, ConcatenateKVCache)
ROTATING = (RotatingKVCache, BoundedKVCache, OrderedKVCache)
POSITIONAL = (*CUT_ANYWHERE, *ROTATING, ChunkedKVCache)


def recurrent(cache: list[Any]) -> list[ArraysCache]:
    """The entries that hold a state instead of rows."""
    return [entry for entry in flat(cache) if type(entry) is ArraysCache]


def known(entry: Any) -> bool:
    """Whether a layer's cache is of a kind with a rule."""
    return type(entry) in (*POSITIONAL, ArraysCache)


def check(cache: list[Any]) -> None:
    """Raise UnsupportedError if some layer's cache is of a kind without a rule."""
    for entry in flat(cache):
        if not known(entry):
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
