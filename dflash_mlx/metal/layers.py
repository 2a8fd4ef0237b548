"""A loaded model's layers, calling kernels where the dispatch says so.

Owns the places in a model where kernels come in: linear layers (and embeddings used
as one), attention, and the gated delta rule. A layer becomes an instance of a subclass
of its own class, in place: names, weights and everything else stay, and no class of
MLX or mlx-lm is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from ..rebind import rebind_class
from . import block_attention, block_matmul
from .delta_rule import DeltaRule
from .dispatch import MOST_ROWS, Dispatch
from .gate import Operation
from .kernel import Case, named

# Rows of context that attention is measured at.
CONTEXT = 4096
# Choices of experts from which on mlx-lm sorts rows.
SORTED = 64
# Columns of a product that are compared with the twin's.
TAIL = 8192


def _x(case: Case, rows: int) -> Case:
    """A call of a product with so many random rows."""
    x = case["x"]
    drawn = mx.random.normal((1, rows, x.shape[-1]), key=mx.random.key(rows))
    return case | {"x": drawn.astype(x.dtype)}


def _row(case: Case, row: int) -> Case:
    """The call of a product that one row makes."""
    return case | {"x": case["x"][..., row : row + 1, :]}


def _last(case: Case, *names: str) -> Case:
    """A call of a product with the last columns only."""
    return case | {name: case[name][-TAIL:] for name in names}


MATMUL = Operation(
    "matmul",
    (block_matmul.DENSE_FAST, block_matmul.DENSE_EXACT),
    block_matmul.DENSE_EXACT,
    lambda x, weight: x @ weight.T,
    _x,
    _row,
    lambda case: _last(case, "weight"),
)
QUANTIZED = Operation(
    "quantized matmul",
    (block_matmul.QUANTIZED_FAST, block_matmul.QUANTIZED_EXACT),
    block_matmul.QUANTIZED_EXACT,
    lambda x, weight, scales, biases, group_size, bits: mx.quantized_matmul(
        x, weight, scales, biases, True, group_size, bits
    ),
    _x,
    _row,
    lambda case: _last(case, "weight", "scales", "biases"),
)


def _context(case: Case, rows: int) -> Case:
    """A causal call of attention with so many random rows at the end of a context."""

    def random(name, rows):
        _, heads, _, dim = case[name].shape
        key = mx.random.key(ord(name))  # MLX's own generator is the user's
        drawn = mx.random.normal((1, heads, rows, dim), key=key)
        return drawn.astype(case[name].dtype)

    q, k, v = random("q", rows), random("k", CONTEXT), random("v", CONTEXT)
    return case | {"q": q, "k": k, "v": v, "mask": "causal", "first": 0}


def _masked(case: Case) -> list[Case]:
    """A causal call, and the same with the mask of a sliding window."""
    rows, keys = case["q"].shape[2], case["k"].shape[2]
    behind = mx.arange(keys - rows, keys)[:, None] - mx.arange(keys)
    return [case, case | {"mask": (behind >= 0) & (behind < keys // 2)}]


def _query(case: Case, row: int) -> Case:
    """The call of attention that one row makes, over the keys that it sees."""
    q, k, v, mask = (case[name] for name in ("q", "k", "v", "mask"))
    keys = k.shape[2]
    if isinstance(mask, str):
        keys, mask = keys - q.shape[2] + row + 1, None
    elif mask is not None:
        mask = mask[..., row : row + 1, :]
    cut = {"k": k[..., :keys, :], "v": v[..., :keys, :], "mask": mask}
    return case | {"q": q[..., row : row + 1, :]} | cut


ATTENTION = Operation(
    "attention",
    (block_attention.KERNEL,),
    block_attention.KERNEL,
    lambda q, k, v, scale, mask, sinks, first: mx.fast.scaled_dot_product_attention(
        q, k, v, scale=scale, mask=mask, sinks=sinks
    ),
    _context,
    _query,
    forms=_masked,
)

OPERATIONS = (MATMUL, QUANTIZED, ATTENTION)


class KernelLinear(nn.Linear):
    """A linear layer whose blocks go to kernels."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., K] to [..., N]."""
        y = dense(self.dispatch, x, self["weight"])
        if y is None:
            return super().__call__(x)
        return y + self["bias"] if "bias" in self else y


class KernelQuantizedLinear(nn.QuantizedLinear):
    """A quantized linear layer whose blocks go to kernels."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., K] to [..., N]."""
        y = quantized(self.dispatch, x, self)
        if y is None:
            return super().__call__(x)
        return y + self["bias"] if "bias" in self else y


class KernelEmbedding(nn.Embedding):
    """An embedding that serves as the head, too."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., K] to logits [..., N]."""
        y = dense(self.dispatch, x, self["weight"])
        return super().as_linear(x) if y is None else y


class KernelQuantizedEmbedding(nn.QuantizedEmbedding):
    """A quantized embedding that serves as the head, too."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., K] to logits [..., N]."""
        y = quantized(self.dispatch, x, self)
        return super().as_linear(x) if y is None else y


class PiecewiseSwitchGLU(SwitchGLU):
    """Experts that take few rows at a time."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [..., L, K], indices [..., L, k] to [..., L, k, K]."""
        return in_pieces(super().__call__, x, indices)


class PiecewiseSwitchMLP(SwitchMLP):
    """Experts that take few rows at a time."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [..., L, K], indices [..., L, k] to [..., L, k, K]."""
        return in_pieces(super().__call__, x, indices)


KINDS: dict[type, type] = {
    nn.Linear: KernelLinear,
    nn.QuantizedLinear: KernelQuantizedLinear,
    nn.Embedding: KernelEmbedding,
    nn.QuantizedEmbedding: KernelQuantizedEmbedding,
}
EXACT_KINDS = {SwitchGLU: PiecewiseSwitchGLU, SwitchMLP: PiecewiseSwitchMLP}


def install(model: nn.Module, dispatch: Dispatch) -> None:
    """Let a model's layers ask `dispatch`, in place."""
    names = {
        "scaled_dot_product_attention": partial(attention, dispatch),
        "gated_delta_update": DeltaRule(dispatch),
    }
    kinds = KINDS | EXACT_KINDS if dispatch.exact else KINDS
    rebound = cache(lambda kind: rebind_class(kind, **names))
    for _, module in model.named_modules():
        kind = kinds.get(type(module)) or rebound(type(module))
        if kind is not None:
            module.__class__ = kind
        if type(module) in KINDS.values():
            module.dispatch = dispatch


def in_pieces(
    run: Callable[[mx.array, mx.array], mx.array], x: mx.array, indices: mx.array
) -> mx.array:
    """Run mlx-lm's experts on rows [1, L, K] of a block so that it sorts none of them.

    From SORTED choices on it sorts rows by expert, and MLX then multiplies by matrix
    kernels, in which a row's sums run otherwise than in those of single rows.
    """
    rows, most = x.shape[-2], max(1, (SORTED - 1) // indices.shape[-1])
    if x.size > rows * x.shape[-1] or not most < rows <= MOST_ROWS:
        return run(x, indices)
    pieces = [slice(i, i + most) for i in range(0, rows, most)]
    return mx.concatenate(
        [run(x[..., piece, :], indices[..., piece, :]) for piece in pieces], axis=-3
    )


def dense(dispatch: Dispatch, x: mx.array, weight: mx.array) -> mx.array | None:
    """x [..., K] W^T of weight [N, K], or None where MLX's own is to run."""
    rows = x.size // x.shape[-1]
    if not dispatch.takes(rows):
        return None
    shape = "{}x{}, {}".format(*weight.shape, types(x, weight))
    return dispatch.call(MATMUL, shape, rows, {"x": x, "weight": weight})


def quantized(
    dispatch: Dispatch, x: mx.array, layer: nn.QuantizedLinear | nn.QuantizedEmbedding
) -> mx.array | None:
    """x [..., K] by a quantized layer's weights, or None where MLX's own is to run."""
    rows = x.size // x.shape[-1]
    if not dispatch.takes(rows):
        return None
    shape = "{}x{} {}, {} bits in {}, {}".format(
        layer["weight"].shape[0],
        x.shape[-1],
        layer.mode,
        layer.bits,
        layer.group_size,
        types(x, layer["scales"]),
    )
    case = {
        "x": x,
        "weight": layer["weight"],
        "scales": layer["scales"],
        "biases": layer.get("biases"),  # modes other than affine have none
        "group_size": layer.group_size,
        "bits": layer.bits,
    }
    return dispatch.call(QUANTIZED, shape, rows, case)


def types(*arrays: mx.array) -> str:
    """Their types, each once."""
    return " and ".join(dict.fromkeys(named(array.dtype) for array in arrays))


def simple(mask: mx.array | str | None, queries: mx.array, keys: mx.array) -> bool:
    """Whether a mask says of each row and key only whether it is seen."""
    if not isinstance(mask, mx.array):
        return True
    return mask.dtype == mx.bool_ and mask.size == queries.shape[2] * keys.shape[2]


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
    """mlx-lm's `scaled_dot_product_attention`, by a kernel where one is to run."""
    stock = partial(
        scaled_dot_product_attention, queries, keys, values, cache, scale, mask, sinks
    )
    if (
        not dispatch.takes(queries.shape[2])
        or not isinstance(keys, mx.array)  # a quantized cache gives triples
        or len(queries) > 1
        or not simple(mask, queries, keys)
    ):
        return stock()
    shape = "{} heads of {} and {} on {}, {}{}".format(
        queries.shape[1],
        queries.shape[3],
        values.shape[3],
        keys.shape[1],
        types(queries, keys, values),
        ", sinks" if sinks is not None else "",
    )
    if dispatch.exact and cache is None:
        dispatch.unexact = "some of its layers attend to keys of others"
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
