"""Removes the last rows of a target's cache, with one rule per kind of cache.

Owns the rules, and the attributes of mlx-lm's caches that they need. A kind without a
rule is refused by `check`; models with such a cache decode plainly, where nothing is
ever removed. A recurrent state cannot be cut: it is put back and replayed
(targets/replay.py). Does not know models, drafters or tokens.
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

# These keep every row. Rows past `offset` are not valid: the next pass overwrites them.
CUT_ANYWHERE = (KVCache, QuantizedKVCache, ConcatenateKVCache)
ROTATING = (RotatingKVCache, BoundedKVCache, OrderedKVCache)
POSITIONAL = (*CUT_ANYWHERE, *ROTATING, ChunkedKVCache)


def recurrent_entries(cache: list[Any]) -> list[ArraysCache]:
    """The entries that hold a state instead of rows."""
    return [entry for entry in flat(cache) if type(entry) is ArraysCache]


def has_rule(entry: Any) -> bool:
    """Whether a layer's cache is of a kind with a rule."""
    return type(entry) in (*POSITIONAL, ArraysCache)


def check(cache: list[Any]) -> None:
    """Raise UnsupportedError if a layer's cache is of a kind without a rule."""
    for entry in flat(cache):
        if not has_rule(entry):
            raise UnsupportedError(
                f"This model uses a {type(entry).__name__}, which cannot be rolled "
                "back yet.",
                "Run it with --plain.",
            )


def can_cut_to(cache: list[Any], rows: int) -> bool:
    """Whether every layer can be cut to its first `rows` rows."""
    return all(
        type(entry) in POSITIONAL and _can_drop(entry, entry.offset - rows)
        for entry in flat(cache)
    )


def cut_to(cache: list[Any], rows: int) -> None:
    """Cut every layer to its first `rows` rows, if `can_cut_to` allows it.

    Layers may have different numbers of rows, after an interrupted pass.
    """
    for entry in flat(cache):
        _drop(entry, entry.offset - rows)


def drop_rows(cache: list[Any], rows: int) -> None:
    """Remove the last `rows` rows of a block from every layer that has rows.

    Recurrent layers do not change.
    """
    for entry in flat(cache):
        if type(entry) is not ArraysCache:
            _drop(entry, rows)


def recurrent_state(entry: ArraysCache) -> list[Any]:
    """The state of a recurrent layer. The arrays themselves never change."""
    return list(entry.cache)


def set_recurrent_state(entry: ArraysCache, state: list[Any]) -> None:
    """Set the state of a recurrent layer."""
    entry.cache[:] = state


def _can_drop(entry, rows):
    if rows == 0:
        return True
    left = entry.offset - rows
    if rows < 0 or left < 0:
        return False
    if type(entry) is ChunkedKVCache:
        # The next row sees everything from the start of its own chunk.
        return left - left % entry.chunk_size >= entry.start_position
    if type(entry) in ROTATING:
        if entry.is_trimmable():
            return True
        # Rows in temporal order, as after a block, of which a full window is left.
        ordered = entry._idx == entry.keys.shape[2]
        return ordered and entry._idx - rows >= min(left, entry.max_size)
    return True


def _drop(entry, rows):
    if not _can_drop(entry, rows):
        raise RuntimeError(
            f"cannot remove {rows} of {entry.offset} rows of a {type(entry).__name__}"
        )
    if rows == 0:
        return
    if type(entry) in (ConcatenateKVCache, *ROTATING):
        # Their own trim leaves the removed rows where the next pass would use them.
        end = (entry._idx if type(entry) in ROTATING else entry.offset) - rows
        entry.keys, entry.values = entry.keys[..., :end, :], entry.values[..., :end, :]
        entry.offset -= rows
        if type(entry) in ROTATING:
            entry._idx = end
    else:
        entry.trim(rows)
