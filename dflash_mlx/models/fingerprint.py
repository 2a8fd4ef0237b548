"""Fingerprints: short texts that differ if two models compute different things.

Knows a model's numbers and arrays. Does not know caches or files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from .drafters.base import Drafter
from .drafters.dflash import DFlash
from .targets.base import Target


def of_target(target: Target) -> str:
    """The fingerprint of a target: its config.json, kind of caches and arrays."""
    config = json.dumps(target.config, sort_keys=True, default=str)
    return _digest(config, f"exact {target.exact}", *_arrays(target.model))


def of_drafter(drafter: Drafter | None) -> str:
    """The fingerprint of a drafter: its class, numbers and arrays. "none" for None."""
    if drafter is None:
        return "none"
    parts = [type(drafter).__qualname__, f"{drafter.taps} {drafter.window}"]
    if isinstance(drafter, DFlash):
        parts.append(repr(drafter.config))
    if isinstance(drafter, nn.Module):
        parts += _arrays(drafter)
    return _digest(*parts)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _arrays(model: nn.Module) -> Iterator[str]:
    """Name, shape, dtype and nine values of every array.

    Adapters change the names, quantization the dtypes, and finetuning the values.
    """
    named = sorted(tree_flatten(model.parameters()), key=lambda item: item[0])
    values = [_values(array) for _, array in named]
    mx.eval(values)
    for (name, array), value in zip(named, values, strict=True):
        digits = np.array(value.view(mx.uint8)).tobytes().hex()
        yield f"{name} {array.shape} {array.dtype} {digits}"


def _values(array: mx.array) -> mx.array:
    """Three numbers of an array's first, middle and last row each. Lazy."""
    if array.size == 0:
        return mx.zeros((1,))
    array = array[None] if array.ndim == 0 else array
    rows = array[_spread(array.shape[0])].reshape(3, -1)
    # The caller views these as bytes, which needs a contiguous array.
    return mx.contiguous(rows[:, _spread(rows.shape[1])].reshape(-1))


def _spread(length: int) -> mx.array:
    """The indices of the first, middle and last of `length` items."""
    return mx.array([0, length // 2, length - 1])
