"""Cases, and comparisons of bits, for the tests of the matmul kernels."""

from functools import partial

import mlx.core as mx
import pytest

from dflash_mlx.metal import block_matmul

WORDS = {2: mx.uint16, 4: mx.uint32}

in_full = partial(pytest.param, marks=pytest.mark.full("metal"))
every_kernel = pytest.mark.parametrize(
    "kernel", block_matmul.KERNELS, ids=lambda kernel: kernel.name
)


def same_bits(a, b):
    words = WORDS[a.dtype.size]
    return a.shape == b.shape and mx.array_equal(a.view(words), b.view(words)).item()


def quantized_case(rows, n, k, dtype, group_size=64, bits=4, seed=0):
    x, weight = dense_case(rows, n, k, dtype, seed).values()
    weight, scales, biases = mx.quantize(weight, group_size, bits)
    return dict(
        x=x, weight=weight, scales=scales, biases=biases,
        group_size=group_size, bits=bits,
    )  # fmt: skip


def dense_case(rows, n, k, dtype, seed=0):
    mx.random.seed(seed)
    x = mx.random.normal((rows, k)).astype(dtype)
    weight = (0.05 * mx.random.normal((n, k))).astype(dtype)
    return dict(x=x, weight=weight)


def is_quantized(kernel):
    return kernel.name.startswith("quantized")


def make_case(kernel, rows, n, k, dtype):
    """A random case for one of the four kernels."""
    make = quantized_case if is_quantized(kernel) else dense_case
    return make(rows, n, k, dtype)


def error(kernel, case, y):
    """The largest difference from the twin, in tolerances; infinity for NaN."""
    expected = kernel.twin(**case).astype(mx.float32)
    off = mx.abs(y.astype(mx.float32) - expected).max().item()
    return off / kernel.tolerance(**case) if off == off else float("inf")
