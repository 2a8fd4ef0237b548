"""Undo the tail of a forward pass: one rule per cache kind.

Knows what is inside a target's cache; nothing of models, drafters or tokens. A kind
without a rule is refused by `check`, never passed over: such a model decodes plainly,
and then nothing is ever cut.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models.cache import KVCache, QuantizedKVCache

from .errors import UnsupportedError

# Growing caches: rows past `offset` are dead and are written over by the next pass.
GROWING = (KVCache, QuantizedKVCache)


def can_cut(cache: list[Any]) -> bool:
    """Whether every layer's cache has a rule."""
    return all(type(entry) in GROWING for entry in cache)


def check(cache: list[Any]) -> None:
    """Raise UnsupportedError if some layer's cache has no rule."""
    for layer, entry in enumerate(cache):
        if type(entry) not in GROWING:
            raise UnsupportedError(
                f"Layer {layer} of this model keeps a {type(entry).__name__}, which "
                "cannot be rolled back yet.",
                "Run it with --plain.",
            )


def cut_to(cache: list[Any], rows: int) -> None:
    """Leave every layer with its first `rows` rows.

    Layers may hold different numbers of them: a pass may have been interrupted.

    Args:
        cache: One entry a layer, of the kinds that `check` accepts.
        rows: How many to keep; no layer holds fewer.
    """
    for entry in cache:
        extra = entry.offset - rows
        if extra < 0 or entry.trim(extra) != extra:
            raise RuntimeError(f"a cache of {entry.offset} rows was to keep {rows}")
