"""Attention of a model's layers, run by a kernel where the dispatch has one.

Owns the attention operation, the shape that its verdict depends on, and the function
that replaces mlx-lm's `scaled_dot_product_attention` in a layer's methods. Does not
know which kernel is chosen.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.base import scaled_dot_product_attention

from . import block_attention
from .dispatch import Dispatch
from .kernel import Case, dtype_names
from .operation import Operation

# Rows of context that attention is measured at.
CONTEXT = 4096


class AttentionShape(NamedTuple):
    """What a verdict on attention depends on besides the rows."""

    heads: int
    key_dim: int
    value_dim: int
    kv_heads: int
    q_dtype: mx.Dtype
    k_dtype: mx.Dtype
    v_dtype: mx.Dtype
    sinks: bool

    def __str__(self) -> str:
        heads = f"{self.heads} heads of {self.key_dim} and {self.value_dim}"
        types = dtype_names(self.q_dtype, self.k_dtype, self.v_dtype)
        sinks = ", sinks" if self.sinks else ""
        return f"{heads} on {self.kv_heads}, {types}{sinks}"


def _sample(case: Case, rows: int) -> Case:
    """A causal case with `rows` random rows at the end of a random context."""

    def random(name, rows):
        _, heads, _, dim = case[name].shape
        # A key of its own: MLX's global generator belongs to the user.
        x = mx.random.normal((1, heads, rows, dim), key=mx.random.key(ord(name)))
        return x.astype(case[name].dtype)

    q, k, v = random("q", rows), random("k", CONTEXT), random("v", CONTEXT)
    return case | {"q": q, "k": k, "v": v, "mask": "causal", "first": 0}


def _with_and_without_mask(case: Case) -> list[Case]:
    """A causal case, and the same with the mask of a sliding window."""
    rows, keys = case["q"].shape[2], case["k"].shape[2]
    distance = mx.arange(keys - rows, keys)[:, None] - mx.arange(keys)
    return [case, case | {"mask": (distance >= 0) & (distance < keys // 2)}]


def _code(case: Case, rows: int) -> tuple[int, int]:
    """The numbers of tiles and simdgroups that a kernel is compiled for."""
    q, kv_heads = case["q"], case["k"].shape[1]
    if q.shape[3] not in block_attention.HEAD_DIMS:  # no kernel runs it
        return 0, 0
    pairs = q.shape[1] // kv_heads * rows
    return block_attention.threadgroup_shape(pairs, q.shape[3], q.dtype.size)


def _row_alone(case: Case, row: int) -> Case:
    """One row's query, with the keys that it sees."""
    q, k, v, mask = (case[name] for name in ("q", "k", "v", "mask"))
    keys = k.shape[2]
    if isinstance(mask, str):
        keys, mask = keys - q.shape[2] + row + 1, None
    elif mask is not None:
        mask = mask[..., row : row + 1, :]
    seen = {"k": k[..., :keys, :], "v": v[..., :keys, :], "mask": mask}
    return case | {"q": q[..., row : row + 1, :]} | seen


ATTENTION = Operation(
    "attention",
    (block_attention.KERNEL,),
    block_attention.KERNEL,
    stock=lambda q, k, v, scale, mask, sinks, first: (
        mx.fast.scaled_dot_product_attention(
            q, k, v, scale=scale, mask=mask, sinks=sinks
        )
    ),
    sample=_sample,
    row_alone=_row_alone,
    variants=_with_and_without_mask,
    code=_code,
)


def attention(
    dispatch: Dispatch,
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """mlx-lm's `scaled_dot_product_attention`, by a kernel where one is chosen."""
    stock = partial(
        scaled_dot_product_attention, queries, keys, values, cache, scale, mask, sinks
    )
    if (
        not dispatch.accepts(queries.shape[2])
        or not isinstance(keys, mx.array)  # a quantized cache gives triples
        or len(queries) > 1
        or not same_for_all_heads(mask, queries, keys)
    ):
        return stock()
    if dispatch.exact and cache is None:
        dispatch.inexact_reason = "some of its layers attend to keys of other layers"
    shape = AttentionShape(
        *(queries.shape[1], queries.shape[3], values.shape[3], keys.shape[1]),
        *(queries.dtype, keys.dtype, values.dtype, sinks is not None),
    )
    case = {
        "q": queries,
        "k": keys,
        "v": values,
        "scale": scale,
        "mask": mask,
        "sinks": sinks,
        "first": 0 if cache is None else cache.offset - keys.shape[2],
    }
    out = dispatch.call(ATTENTION, shape, queries.shape[2], case)
    return stock() if out is None else out


def same_for_all_heads(
    mask: mx.array | str | None, queries: mx.array, keys: mx.array
) -> bool:
    """Whether a mask is None, a name, or one boolean per row and key."""
    if not isinstance(mask, mx.array):
        return True
    return mask.dtype == mx.bool_ and mask.size == queries.shape[2] * keys.shape[2]
