"""Undo the tail of a forward pass: one rule per cache kind.

The only file that knows what is inside a cache. Knows nothing of models, drafters
or tokens. A kind without a rule is refused by `check`, never passed over.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import KVCache, QuantizedKVCache

from .errors import UnsupportedError

# Growing caches: rows past `offset` are dead and are written over by the next pass.
GROWING = (KVCache, QuantizedKVCache)


def check(cache: list[Any]) -> None:
    """Raise UnsupportedError if some layer's cache has no rollback rule."""
    for layer, entry in enumerate(cache):
        if type(entry) not in GROWING:
            raise UnsupportedError(
                f"Layer {layer} of this model keeps a {type(entry).__name__}, which "
                "cannot be rolled back yet.",
                "Run it with --plain.",
            )


def cut(cache: list[Any], rows: int) -> None:
    """Forget the last `rows` rows of every layer's cache.

    Args:
        cache: One entry a layer, of the kinds that `check` accepts.
        rows: How many rows to drop; 0 does nothing.
    """
    if rows == 0:
        return
    for entry in cache:
        if entry.trim(rows) != rows:
            raise RuntimeError(f"a cache of fewer than {rows} rows was to lose them")


def length(cache: list[Any]) -> int:
    """Rows that the cache holds."""
    return cache[0].offset
