"""Linear layers and embeddings used as one, run by kernels where the dispatch has one.

Owns the two matmul operations, the shapes that their verdicts depend on, and the
layers' classes. Does not know which kernel is chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from . import block_matmul
from .dispatch import Dispatch
from .kernel import Case, dtype_names
from .operation import Operation

# Columns of a result that are compared with the twin's.
TAIL = 8192


class MatmulShape(NamedTuple):
    """What a verdict on a product depends on besides the rows."""

    outputs: int
    inputs: int
    x_dtype: mx.Dtype
    weight_dtype: mx.Dtype

    def __str__(self) -> str:
        types = dtype_names(self.x_dtype, self.weight_dtype)
        return f"{self.outputs}x{self.inputs}, {types}"


class QuantizedShape(NamedTuple):
    """What a verdict on a product with packed weights depends on besides the rows."""

    outputs: int
    inputs: int
    mode: str
    bits: int
    group_size: int
    x_dtype: mx.Dtype
    scales_dtype: mx.Dtype

    def __str__(self) -> str:
        packing = f"{self.mode}, {self.bits} bits in {self.group_size}"
        types = dtype_names(self.x_dtype, self.scales_dtype)
        return f"{self.outputs}x{self.inputs} {packing}, {types}"


def _random_rows(case: Case, rows: int) -> Case:
    """The case with `rows` random rows for x."""
    x = case["x"]
    random = mx.random.normal((1, rows, x.shape[-1]), key=mx.random.key(rows))
    return case | {"x": random.astype(x.dtype)}


def _row_alone(case: Case, row: int) -> Case:
    return case | {"x": case["x"][..., row : row + 1, :]}


def _code(case: Case, rows: int) -> tuple:
    """What both kinds of kernels are compiled for."""
    return block_matmul.exact_code(rows), block_matmul.fast_code(rows)


def _last_outputs(case: Case, *names: str) -> Case:
    """The case with the last rows of each named weight array only."""
    return case | {name: case[name][-TAIL:] for name in names}


MATMUL = Operation(
    "matmul",
    (block_matmul.DENSE_FAST, block_matmul.DENSE_EXACT),
    block_matmul.DENSE_EXACT,
    stock=lambda x, weight: x @ weight.T,
    sample=_random_rows,
    row_alone=_row_alone,
    tail=lambda case: _last_outputs(case, "weight"),
    code=_code,
)
QUANTIZED = Operation(
    "quantized matmul",
    (block_matmul.QUANTIZED_FAST, block_matmul.QUANTIZED_EXACT),
    block_matmul.QUANTIZED_EXACT,
    stock=lambda x, weight, scales, biases, group_size, bits: mx.quantized_matmul(
        x, weight, scales, biases, True, group_size, bits
    ),
    sample=_random_rows,
    row_alone=_row_alone,
    tail=lambda case: _last_outputs(case, "weight", "scales", "biases"),
    code=_code,
)


def dense(dispatch: Dispatch, x: mx.array, weight: mx.array) -> mx.array | None:
    """x [..., K] by weight [N, K], or None if MLX's own operation is to run."""
    rows = x.size // x.shape[-1]
    if not dispatch.accepts(rows):
        return None
    shape = MatmulShape(*weight.shape, x.dtype, weight.dtype)
    return dispatch.call(MATMUL, shape, rows, {"x": x, "weight": weight})


def quantized(
    dispatch: Dispatch, x: mx.array, layer: nn.QuantizedLinear | nn.QuantizedEmbedding
) -> mx.array | None:
    """x [..., K] by the weights of a quantized layer, or None if MLX's own operation is
    to run."""
    rows = x.size // x.shape[-1]
    if not dispatch.accepts(rows):
        return None
    weight, scales = layer["weight"], layer["scales"]
    packing = layer.mode, layer.bits, layer.group_size
    shape = QuantizedShape(
        weight.shape[0], x.shape[-1], *packing, x.dtype, scales.dtype
    )
    case = {
        "x": x,
        "weight": weight,
        "scales": scales,
        "biases": layer.get("biases"),  # only the affine mode has biases
        "group_size": layer.group_size,
        "bits": layer.bits,
    }
    return dispatch.call(QUANTIZED, shape, rows, case)


class KernelLinear(nn.Linear):
    """A linear layer that runs blocks by kernels."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., K] to [..., N]."""
        y = dense(self.dispatch, x, self["weight"])
        if y is None:
            return super().__call__(x)
        return y + self["bias"] if "bias" in self else y


class KernelQuantizedLinear(nn.QuantizedLinear):
    """A quantized linear layer that runs blocks by kernels."""

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., K] to [..., N]."""
        y = quantized(self.dispatch, x, self)
        if y is None:
            return super().__call__(x)
        return y + self["bias"] if "bias" in self else y


class KernelEmbedding(nn.Embedding):
    """An embedding that also serves as the head, by kernels."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., K] to logits [..., N]."""
        y = dense(self.dispatch, x, self["weight"])
        return super().as_linear(x) if y is None else y


class KernelQuantizedEmbedding(nn.QuantizedEmbedding):
    """A quantized embedding that also serves as the head, by kernels."""

    def as_linear(self, x: mx.array) -> mx.array:
        """x [..., K] to logits [..., N]."""
        y = quantized(self.dispatch, x, self)
        return super().as_linear(x) if y is None else y


KERNEL_CLASSES: dict[type, type] = {
    nn.Linear: KernelLinear,
    nn.QuantizedLinear: KernelQuantizedLinear,
    nn.Embedding: KernelEmbedding,
    nn.QuantizedEmbedding: KernelQuantizedEmbedding,
}
