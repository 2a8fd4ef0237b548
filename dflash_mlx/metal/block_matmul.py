"""y = x W^T for a block of 1 to 16 rows, which reads each weight once for all rows.

Owns the choice of kernel, template and grid by shape, and the bounds on rounding. Knows
no layer and no verdict. An *exact* kernel computes a row with the same bits as alone,
and as MLX's kernels for one row do; a *fast* kernel uses the matrix units.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from math import sqrt
from typing import Any

import mlx.core as mx

from .kernel import MAX_ROWS, MIN_ELEMENTS, Case, Kernel, compiled

BITS, GROUP_SIZES = (4, 8), (32, 64, 128)
# The distance from 1 to the next number.
SPACING = {mx.float32: 2.0**-23, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}
# Numbers of rows for which the exact kernels are compiled. A block uses the smallest
# that is not below its own.
COMPILED_ROWS = (1, 2, 4, 8, MAX_ROWS)
# Tiles of 8 outputs per SIMD group of the fast kernels.
TILES = 2

QUANTIZED_INPUTS, DENSE_INPUTS = ("x", "w", "scales", "biases"), ("x", "w")
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
    """Multiply x [..., K] by affine packed weights [N, K * bits / 32].

    The case must be one for which `quantized_refusal` returns "".

    Returns:
        [..., N] in x's dtype.
    """
    inputs = [weight, scales, biases]
    template: dict[str, Any] = {"T": x.dtype, "GROUP": group_size, "BITS": bits}
    if not exact:
        names = QUANTIZED_INPUTS
        return _fast("fast_quantized", names, FAST_QUANTIZED, x, inputs, template)
    values, lanes = quantized_partition(x.shape[-1], bits)
    template |= {"VALUES": values, "LANES": lanes}
    kernel = compiled(
        ("block_matmul_quantized",),
        "quantized_rows",
        QUANTIZED_INPUTS,
        ("y",),
        EXACT_QUANTIZED,
    )
    return _exact(kernel, x, inputs, template)


def dense(x: mx.array, weight: mx.array, exact: bool = True) -> mx.array:
    """Multiply x [..., K] by weights [N, K] of x's dtype.

    The case must be one for which `dense_refusal` returns "".

    Returns:
        [..., N] in x's dtype.
    """
    template: dict[str, Any] = {"T": x.dtype}
    if not exact:
        return _fast("fast_dense", DENSE_INPUTS, FAST_DENSE, x, [weight], template)
    lanes, split = dense_partition(x.shape[-1], weight.shape[0])
    template |= {"LANES": lanes, "SPLIT": split}
    kernel = compiled(
        ("block_matmul_dense",), "dense_rows", DENSE_INPUTS, ("y",), EXACT_DENSE
    )
    return _exact(kernel, x, [weight], template, split)


def quantized_partition(k: int, bits: int) -> tuple[int, int]:
    """Weights per lane and step, and lanes per output, as in MLX 0.32.4 for one row:
    those of qmv_quad, qmv_fast or qmv, whichever it runs for K = k."""
    if k in (64, 128):
        return k // 4, 4
    word = 32 // bits
    return (2 * word if k % (64 * word) == 0 else word), 32


def dense_partition(k: int, n: int) -> tuple[int, int]:
    """Lanes and SIMD groups per output, as in gemv, MLX 0.32.4's kernel for one row."""
    if k <= 64:
        return 4, 1
    return 32, 8 if k >= 16 * n else 1


def exact_code(rows: int) -> tuple[int, int]:
    """The numbers of rows and of outputs per lane that an exact kernel is compiled for.
    A lane keeps rows * outputs sums in registers."""
    compiled_rows = next(size for size in COMPILED_ROWS if rows <= size)
    return compiled_rows, 4 if rows <= 8 else 2


def fast_code(rows: int) -> int:
    """The number of blocks of 8 rows that a fast kernel is compiled for."""
    return 1 if rows <= 8 else 2


def _exact(kernel, x, inputs, template, split=1):
    """Launch an exact kernel, in which `split` SIMD groups share their outputs."""
    k, n = x.shape[-1], inputs[0].shape[0]
    compiled_rows, outputs = exact_code(x.size // k)
    template = template | {"ROWS": compiled_rows, "OUTPUTS": outputs}
    simdgroups = -(-n // (outputs * 32 // template["LANES"])) * split
    per_threadgroup = max(2, split)
    threadgroups = -(-simdgroups // per_threadgroup)
    return _launch(kernel, x, inputs, template, threadgroups, 32 * per_threadgroup)


def _fast(variant, names, body, x, inputs, template):
    """Launch a fast kernel, in which the SIMD groups of a threadgroup share outputs and
    take 128 values of K each at a time."""
    k, n = x.shape[-1], inputs[0].shape[0]
    steps = -(-k // 128)
    split = next(size for size in (8, 4, 2, 1) if size <= steps)
    template = template | {
        "BLOCKS": fast_code(x.size // k),
        "SPLIT": split,
        "TILES": TILES,
    }
    kernel = compiled(("block_matmul_fast",), variant, names, ("y",), body)
    return _launch(kernel, x, inputs, template, -(-n // (8 * TILES)), 32 * split)


def _launch(kernel, x, inputs, template, threadgroups, threads):
    k, n = x.shape[-1], inputs[0].shape[0]
    y = kernel(
        inputs=[x.reshape(-1, k), *inputs],
        template=list(template.items()),
        grid=(threadgroups * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(x.size // k, n)],
        output_dtypes=[x.dtype],
    )[0]
    return y.reshape(*x.shape[:-1], n)


def quantized_refusal(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    group_size: int,
    bits: int,
) -> str:
    """Why `quantized` cannot run a case, as a predicate; "" if it can."""
    if biases is None or bits not in BITS or group_size not in GROUP_SIZES:
        return "needs affine weights of 4 or 8 bits in groups of 32, 64 or 128"
    if scales.dtype != x.dtype or biases.dtype != x.dtype:
        return "needs scales of the input's dtype"
    if weight.shape[-1] * 32 != x.shape[-1] * bits:
        return "needs weights as long as the input"
    return _refusal(x, weight, scales)


def dense_refusal(x: mx.array, weight: mx.array) -> str:
    """Why `dense` cannot run a case, as a predicate; "" if it can."""
    if weight.dtype != x.dtype:
        return "needs weights of the input's dtype"
    if weight.shape[-1] != x.shape[-1]:
        return "needs weights as long as the input"
    if weight.shape[0] == 1:
        # MLX computes a dot product, which adds in another order.
        return "does not support a single output"
    return _refusal(x, weight)


def _refusal(x, weight, *others):
    if x.dtype not in SPACING:
        return "needs float32, float16 or bfloat16"
    if weight.ndim != 2:
        return "needs one matrix"
    if not 1 <= x.size // max(1, x.shape[-1]) <= MAX_ROWS:
        return f"needs 1 to {MAX_ROWS} rows"
    if min(array.size for array in (x, weight, *others)) < MIN_ELEMENTS:
        return f"needs inputs of at least {MIN_ELEMENTS} elements"
    return ""


def _quantized_twin(x, weight, scales, biases, group_size, bits):
    wide = _dequantized(weight, scales, biases, group_size, bits)
    return _dense_twin(x, wide).astype(x.dtype)


def _dense_twin(x, weight):
    """One row at a time, on the CPU; see Kernel."""
    k, wide = x.shape[-1], weight.astype(mx.float32).T
    rows = x.reshape(-1, 1, k).astype(mx.float32)
    y = mx.concatenate([mx.matmul(row, wide, stream=mx.cpu) for row in rows])
    return y.reshape(*x.shape[:-1], -1).astype(x.dtype)


def _dequantized(weight, scales, biases, group_size, bits):
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(weight, scales, biases, group_size, bits)


def _quantized_tolerance(x, weight, scales, biases, group_size, bits):
    # scale * q and bias nearly cancel, so rounding depends on the size of each.
    terms = _dequantized(weight, mx.abs(scales), mx.abs(biases), group_size, bits)
    wide = _dequantized(weight, scales, biases, group_size, bits)
    return _rounding(x, wide, terms)


def _dense_tolerance(x, weight):
    return _rounding(x, weight.astype(mx.float32), mx.abs(weight.astype(mx.float32)))


def _rounding(x, weight, terms):
    """The largest difference between kernel and twin that rounding explains.

    Sums of K terms in different orders differ by about sqrt(K) roundings of the sum of
    the terms' sizes (Higham and Mary, A new approach to probabilistic rounding error
    analysis, 2019; 4 standard deviations here). Then both are rounded to the dtype.
    """
    k = x.shape[-1]
    rows = x.reshape(-1, k).astype(mx.float32)
    size = mx.matmul(mx.abs(rows), terms.T, stream=mx.cpu).max().item()
    largest = mx.abs(mx.matmul(rows, weight.T, stream=mx.cpu)).max().item()
    return (4 * sqrt(k) + 16) * 2.0**-24 * size + SPACING[x.dtype] * largest


# N and K, for each of MLX's kernels; with tails, and with N below and above a tile.
SHAPES = ((24, 64), (70, 128), (13, 192), (7, 384), (16, 512), (5, 768), (33, 1024))
DENSE_SHAPES = (*SHAPES, (3, 40), (2, 70), (12, 61), (5, 1030))


def _quantized_cases() -> Iterator[Case]:
    """Every packing, with the shapes and numbers of rows in turn."""
    shapes, rows = cycle(SHAPES), cycle((1, 2, 3, 5, 8, 13, 16))
    for dtype in SPACING:
        for bits in BITS:
            for group_size in GROUP_SIZES:
                n, k = next(s for s in shapes if s[1] % group_size == 0)
                x, weight = _random_inputs(next(rows), n, k, dtype)
                packed = mx.quantize(weight, group_size, bits)
                yield {
                    "x": x,
                    **dict(zip(("weight", "scales", "biases"), packed, strict=True)),
                    "group_size": group_size,
                    "bits": bits,
                }


def _dense_cases() -> Iterator[Case]:
    """Every shape, with the dtypes and numbers of rows in turn."""
    dtypes, rows = cycle(SPACING), cycle((1, 2, 3, 5, 8, 13, 16))
    for n, k in DENSE_SHAPES:
        x, weight = _random_inputs(next(rows), n, k, next(dtypes))
        yield {"x": x, "weight": weight}


def _random_inputs(rows, n, k, dtype):
    x, weight = (
        mx.random.normal((count, k), key=mx.random.key(seed)).astype(dtype)
        for seed, count in ((0, rows), (1, n))
    )
    return x[None], weight * 0.05


def _kernel(name, source, exact):
    packed = name.startswith("quantized")
    return Kernel(
        name=name,
        sources=(source,),
        launch=partial(quantized if packed else dense, exact=exact),
        twin=_quantized_twin if packed else _dense_twin,
        cases=_quantized_cases if packed else _dense_cases,
        tolerance=_quantized_tolerance if packed else _dense_tolerance,
        refusal=quantized_refusal if packed else dense_refusal,
    )


KERNELS = (
    _kernel("quantized_matmul_exact", "block_matmul_quantized", exact=True),
    _kernel("quantized_matmul_fast", "block_matmul_fast", exact=False),
    _kernel("matmul_exact", "block_matmul_dense", exact=True),
    _kernel("matmul_fast", "block_matmul_fast", exact=False),
)
QUANTIZED_EXACT, QUANTIZED_FAST, DENSE_EXACT, DENSE_FAST = KERNELS
