"""y = x W^T for a block of 1 to 16 rows, each weight read once for all of them.

Owns the choice of kernel, template and grid by shape, and what rounding explains.
Knows no layer and no verdict. An *exact* kernel gives a row the bits that it has
alone, and that MLX's kernels for one row give it; a *fast* one uses the matrix units.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from math import sqrt
from typing import Any

import mlx.core as mx

from .kernel import (
    LEAST_ELEMENTS,
    Case,
    Kernel,
    compiled,
)

MOST_ROWS = 16
BITS, GROUP_SIZES = (4, 8), (32, 64, 128)
# The distance of a number near 1 to the next.
SPACING = {mx.float32: 2.0**-23, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}
# Rows that the exact kernels are compiled for; a block takes the next of them.
ROWS = (1, 2, 4, 8, 16)
# Tiles of 8 outputs that a SIMD group of the fast kernels has.
TILES = 2

PACKED, PLAIN = ("x", "w", "scales", "biases"), ("x", "w")
SIZES = "x_shape[0], x_shape[1], w_shape[0]"
SIMDGROUP = "thread_position_in_grid.x / 32, thread_index_in_simdgroup"
PLACE = (
    "threadgroup_position_in_grid.x, simdgroup_index_in_threadgroup, "
    "thread_index_in_simdgroup"
)
EXACT_QUANTIZED = f"""
quantized_rows<T, GROUP, BITS, ROWS, VALUES, LANES, OUTPUTS>(
    x, w, scales, biases, y, {SIZES}, {SIMDGROUP});"""
EXACT_DENSE = f"""
threadgroup float shared[SPLIT * ROWS * OUTPUTS];
dense_rows<T, ROWS, LANES, SPLIT, OUTPUTS>(x, w, y, {SIZES}, shared, {SIMDGROUP});"""
FAST_QUANTIZED = f"""
threadgroup float shared[SPLIT * TILES * BLOCKS * TILE];
fast_quantized<T, GROUP, BITS, BLOCKS, SPLIT, TILES>(
    x, w, scales, biases, y, {SIZES}, shared, {PLACE});"""
FAST_DENSE = f"""
threadgroup float shared[SPLIT * TILES * BLOCKS * TILE];
fast_dense<T, BLOCKS, SPLIT, TILES>(x, w, y, {SIZES}, shared, {PLACE});"""


def quantized(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    group_size: int,
    bits: int,
    exact: bool = True,
) -> mx.array:
    """x [..., K] by affine packed weights [N, K * bits / 32].

    Only what `refuses_quantized` has nothing against.

    Returns:
        [..., N] of x's dtype.
    """
    inputs = [weight, scales, biases]
    template: dict[str, Any] = {"T": x.dtype, "GROUP": group_size, "BITS": bits}
    if not exact:
        return _fast("fast_quantized", PACKED, FAST_QUANTIZED, x, inputs, template)
    values, lanes = packed_shares(x.shape[-1], bits)
    template |= {"VALUES": values, "LANES": lanes}
    kernel = compiled(
        "block_matmul_quantized", "quantized_rows", PACKED, ("y",), EXACT_QUANTIZED
    )
    return _exact(kernel, x, inputs, template)


def dense(x: mx.array, weight: mx.array, exact: bool = True) -> mx.array:
    """x [..., K] by weights [N, K] of its dtype.

    Only what `refuses_dense` has nothing against.

    Returns:
        [..., N] of x's dtype.
    """
    if not exact:
        return _fast("fast_dense", PLAIN, FAST_DENSE, x, [weight], {"T": x.dtype})
    lanes, split = plain_shares(x.shape[-1], weight.shape[0])
    template = {"T": x.dtype, "LANES": lanes, "SPLIT": split}
    kernel = compiled("block_matmul_dense", "dense_rows", PLAIN, ("y",), EXACT_DENSE)
    return _exact(kernel, x, [weight], template, split)


def packed_shares(k: int, bits: int) -> tuple[int, int]:
    """Weights per lane and step, and lanes per output, as MLX 0.32.4 takes one row.

    That is, which of qmv_quad, qmv_fast and qmv it takes for K of `k`.
    """
    if k in (64, 128):
        return k // 4, 4
    word = 32 // bits
    return (2 * word if k % (64 * word) == 0 else word), 32


def plain_shares(k: int, n: int) -> tuple[int, int]:
    """Lanes, and SIMD groups, per output, as MLX 0.32.4 takes one row: its gemv."""
    if k <= 64:
        return 4, 1
    return 32, 8 if k >= 16 * n else 1


def _exact(kernel, x, inputs, template, split=1):
    """`split` SIMD groups share outputs; two or more make a threadgroup."""
    k, n = x.shape[-1], inputs[0].shape[0]
    rows = x.size // k
    # A lane keeps rows * outputs sums in registers.
    outputs = 4 if rows <= 8 else 2
    compiled_rows = next(most for most in ROWS if rows <= most)
    template = template | {"ROWS": compiled_rows, "OUTPUTS": outputs}
    simdgroups = -(-n // (outputs * 32 // template["LANES"])) * split
    together = max(2, split)
    groups = -(-simdgroups // together)
    return _run(kernel, x, inputs, template, groups, 32 * together)


def _fast(variant, names, body, x, inputs, template):
    """Threadgroups of SIMD groups that share outputs and have 128 values at a time."""
    k, n = x.shape[-1], inputs[0].shape[0]
    steps = -(-k // 128)
    split = next(size for size in (8, 4, 2, 1) if size <= steps)
    blocks = 1 if x.size // k <= 8 else 2
    template = template | {"BLOCKS": blocks, "SPLIT": split, "TILES": TILES}
    kernel = compiled("block_matmul_fast", variant, names, ("y",), body)
    return _run(kernel, x, inputs, template, -(-n // (8 * TILES)), 32 * split)


def _run(kernel, x, inputs, template, groups, threads):
    k, n = x.shape[-1], inputs[0].shape[0]
    y = kernel(
        inputs=[x.reshape(-1, k), *inputs],
        template=list(template.items()),
        grid=(groups * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(x.size // k, n)],
        output_dtypes=[x.dtype],
    )[0]
    return y.reshape(*x.shape[:-1], n)


def refuses_quantized(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    group_size: int,
    bits: int,
) -> str:
    """Why `quantized` cannot run a call, "" if it can."""
    if biases is None or bits not in BITS or group_size not in GROUP_SIZES:
        return "takes affine weights of 4 or 8 bits in groups of 32, 64 or 128"
    if scales.dtype != x.dtype or biases.dtype != x.dtype:
        return "takes scales of the input's type"
    if weight.shape[-1] * 32 != x.shape[-1] * bits:
        return "takes weights as long as the input"
    return _refuses(x, weight, scales)


def refuses_dense(x: mx.array, weight: mx.array) -> str:
    """Why `dense` cannot run a call, "" if it can."""
    if weight.dtype != x.dtype:
        return "takes weights of the input's type"
    if weight.shape[-1] != x.shape[-1]:
        return "takes weights as long as the input"
    if weight.shape[0] == 1:
        return "leaves a single output to MLX"  # a dot product, in another order
    return _refuses(x, weight)


def _refuses(x, weight, *others):
    if x.dtype not in SPACING:
        return "takes float32, float16 or bfloat16"
    if weight.ndim != 2:
        return "takes one matrix"
    if not 1 <= x.size // max(1, x.shape[-1]) <= MOST_ROWS:
        return f"takes 1 to {MOST_ROWS} rows"
    if min(array.size for array in (x, weight, *others)) < LEAST_ELEMENTS:
        return f"takes inputs of at least {LEAST_ELEMENTS} elements"
    return ""


def _twin_quantized(x, weight, scales, biases, group_size, bits):
    wide = _dequantized(weight, scales, biases, group_size, bits)
    return _twin_dense(x, wide).astype(x.dtype)


def _twin_dense(x, weight):
    """One row at a time: MLX multiplies float32 matrices in less on some chips."""
    k, wide = x.shape[-1], weight.astype(mx.float32).T
    rows = x.reshape(-1, 1, k).astype(mx.float32)
    y = mx.concatenate([row @ wide for row in rows])
    return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _dequantized(weight, scales, biases, group_size, bits):
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, group_size, bits)


def _tolerance_quantized(x, weight, scales, biases, group_size, bits):
    # scale * q and bias nearly cancel: rounding goes by their own sizes.
    terms = _dequantized(weight, mx.abs(scales), mx.abs(biases), group_size, bits)
    wide = _dequantized(weight, scales, biases, group_size, bits)
    return _rounding(x, wide, terms)


def _tolerance_dense(x, weight):
    return _rounding(x, weight.astype(mx.float32), mx.abs(weight.astype(mx.float32)))


def _rounding(x, weight, terms):
    """What the twin and a kernel may differ by.

    Sums of K terms in another order differ by about sqrt(K) roundings of the sum of
    their sizes (Higham and Mary, A new approach to probabilistic rounding error
    analysis, 2019; 4 standard deviations here); each of the two is rounded then.
    """
    k = x.shape[-1]
    rows = x.reshape(-1, k).astype(mx.float32)
    size = (mx.abs(rows) @ terms.T).max().item()
    largest = mx.abs(rows @ weight.T).max().item()
    return (4 * sqrt(k) + 16) * 2.0**-24 * size + SPACING[x.dtype] * largest


# N and K: each of MLX's kernels, tails, fewer outputs than a tile, and more.
SHAPES = ((24, 64), (70, 128), (13, 192), (7, 384), (16, 512), (5, 768), (33, 1024))
PLAIN_SHAPES = (*SHAPES, (3, 40), (2, 70), (12, 61), (5, 1030))


def _cases_quantized() -> Iterator[Case]:
    """Every packing, with shapes and numbers of rows in turn."""
    shapes, rows = cycle(SHAPES), cycle((1, 2, 3, 5, 8, 13, 16))
    for dtype in SPACING:
        for bits in BITS:
            for group_size in GROUP_SIZES:
                n, k = next(s for s in shapes if s[1] % group_size == 0)
                x, weight = _drawn(next(rows), n, k, dtype)
                packed = mx.quantize(weight, group_size, bits)
                yield {
                    "x": x,
                    **dict(zip(("weight", "scales", "biases"), packed, strict=True)),
                    "group_size": group_size,
                    "bits": bits,
                }


def _cases_dense() -> Iterator[Case]:
    """Every shape, with types and numbers of rows in turn."""
    dtypes, rows = cycle(SPACING), cycle((1, 2, 3, 5, 8, 13, 16))
    for n, k in PLAIN_SHAPES:
        x, weight = _drawn(next(rows), n, k, next(dtypes))
        yield {"x": x, "weight": weight}


def _drawn(rows, n, k, dtype):
    x, weight = (
        mx.random.normal((count, k), key=mx.random.key(seed)).astype(dtype)
        for seed, count in ((0, rows), (1, n))
    )
    return x[None], weight * 0.05


def _kernel(name, source, exact):
    packed = name.startswith("quantized")
    return Kernel(
        name=name,
        source=source,
        launch=partial(quantized if packed else dense, exact=exact),
        twin=_twin_quantized if packed else _twin_dense,
        cases=_cases_quantized if packed else _cases_dense,
        tolerance=_tolerance_quantized if packed else _tolerance_dense,
        refuses=refuses_quantized if packed else refuses_dense,
    )


KERNELS = (
    _kernel("quantized_matmul_exact", "block_matmul_quantized", exact=True),
    _kernel("quantized_matmul_fast", "block_matmul_fast", exact=False),
    _kernel("matmul_exact", "block_matmul_dense", exact=True),
    _kernel("matmul_fast", "block_matmul_fast", exact=False),
)
QUANTIZED_EXACT, QUANTIZED_FAST, DENSE_EXACT, DENSE_FAST = KERNELS
