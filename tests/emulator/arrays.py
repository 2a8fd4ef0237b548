"""Conversion between MLX's arrays and NumPy's, with the same bytes and strides."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

# bfloat16 is represented by its bit pattern.
NUMPY = {
    mx.bool_: np.bool_,
    mx.int8: np.int8,
    mx.int16: np.int16,
    mx.int32: np.int32,
    mx.int64: np.int64,
    mx.uint8: np.uint8,
    mx.uint16: np.uint16,
    mx.uint32: np.uint32,
    mx.uint64: np.uint64,
    mx.float16: np.float16,
    mx.bfloat16: np.uint16,
    mx.float32: np.float32,
    mx.complex64: np.complex64,
}


def to_numpy(array: mx.array | np.ndarray) -> np.ndarray:
    """An array's own memory, with its strides."""
    if not isinstance(array, mx.array):
        return np.asarray(array)
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.asarray(array)


def to_mlx(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """An MLX array of this dtype from its bytes."""
    result = mx.array(array)
    return result.view(mx.bfloat16) if dtype == mx.bfloat16 else result


def strides(array: np.ndarray) -> np.ndarray:
    """Strides in elements, as MLX passes them to a kernel."""
    return np.array([s // array.itemsize for s in array.strides], np.int64)
