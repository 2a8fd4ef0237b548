"""The matmul kernels on the emulator: against their twins, row by row, and the cases
that they do not support."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx.metal import block_matmul as bm
from dflash_mlx.metal.kernel import MAX_ROWS
from tests import emulator
from tests.metal.matmul_cases import (
    dense_case,
    error,
    every_kernel,
    in_full,
    is_quantized,
    make_case,
    quantized_case,
    same_bits,
)

pytestmark = pytest.mark.usefixtures("metal")


@every_kernel
@pytest.mark.full("metal")
def test_agrees_with_its_twin(kernel):
    """All packings and shapes: tails, fewer outputs than a tile, 1 to 16 rows."""
    with emulator.using(checks=False, seeds=(0, 1, 2)):
        for case in kernel.cases():
            assert kernel.refusal(**case) == ""
            assert error(kernel, case, kernel.launch(**case)) <= 1


@every_kernel
def test_accesses_only_its_own_memory(kernel):
    """Bounds, races and address spaces, at shapes with tails on every side."""
    cases = (
        [
            quantized_case(3, 13, 192, mx.bfloat16),
            quantized_case(9, 70, 128, mx.float16),
        ]
        if is_quantized(kernel)
        else [dense_case(3, 13, 131, mx.bfloat16), dense_case(9, 3, 61, mx.float16)]
    )
    cases += [dense_case(2, 5, 300, mx.float32)] if len(cases[0]) == 2 else []
    with emulator.using(checks=True, spaces=True, seeds=(0, 1, 2, 3)):
        for case in cases:
            assert error(kernel, case, kernel.launch(**case)) <= 1


def in_double(case):
    """x, the weights, and the sum of the sizes of the terms that make up a weight."""
    x, weight = case["x"], case["weight"]
    sizes = mx.abs(weight)
    if "scales" in case:
        scales, biases, *packing = list(case.values())[2:]
        sizes = mx.dequantize(weight, mx.abs(scales), mx.abs(biases), *packing)
        weight = mx.dequantize(weight, scales, biases, *packing)
    return [np.array(array, np.float64) for array in (x, weight, sizes)]


@every_kernel
@pytest.mark.parametrize("model", range(4))
def test_is_correct_in_every_order_of_sums(kernel, model):
    """In float32, which rounds least: within rounding of an exact sum.

    Each of K steps rounds a partial sum, which grows as the root of the number of its
    terms. Four standard deviations are allowed.
    """
    case = make_case(kernel, 11, 21, 640, mx.float32)
    contract = ("on", "off")[model % 2]
    with emulator.using(
        checks=False, simd_order=model, mma_order=model, contract=contract
    ):
        y = np.array(kernel.launch(**case), np.float64)
    x, weight, sizes = in_double(case)
    deviation = 2.0**-24 * np.sqrt(640) * np.sqrt(x**2 @ (sizes**2).T)
    off = np.abs(y - x @ weight.T) / deviation
    print(f"{kernel.name}: off by {off.max():.2g} standard deviations")
    assert off.max() <= 4


@pytest.mark.parametrize(
    "launch, case",
    [
        (bm.quantized, quantized_case(16, 20, 320, mx.bfloat16, 32)),
        (bm.quantized, quantized_case(16, 20, 1024, mx.float16, 128, 8)),
        (bm.dense, dense_case(16, 20, 200, mx.bfloat16)),
        in_full(bm.quantized, quantized_case(16, 20, 128, mx.bfloat16)),
        in_full(bm.dense, dense_case(16, 4, 200, mx.float16)),
        in_full(bm.dense, dense_case(16, 20, 61, mx.bfloat16)),
    ],
    ids="qmv qmv_fast gemv qmv_quad split short".split(),
)
@pytest.mark.parametrize("contract", ("on", in_full("off")))
def test_a_row_has_its_bits_in_every_block(launch, case, contract):
    """1 to 16 rows, at any place in the block."""
    x = case["x"]
    with emulator.using(checks=False, seeds=(0,), contract=contract):
        alone = mx.concatenate([launch(**case | {"x": row[None]}) for row in x])
        for m in range(1, MAX_ROWS + 1):
            assert same_bits(launch(**case | {"x": x[:m]}), alone[:m])
            assert same_bits(launch(**case | {"x": x[-m:]}), alone[-m:])


@every_kernel
def test_rows_past_the_last_do_not_matter(kernel):
    """y does not depend on the memory after x, which holds NaN here."""
    case = make_case(kernel, 16, 12, 192, mx.float16)
    with_nan = mx.concatenate(
        [case["x"][:5], mx.full((11, 192), float("nan"), mx.float16)]
    )
    mx.eval(with_nan)
    with emulator.using(checks=False, seeds=(0,)):
        short = kernel.launch(**case | {"x": with_nan[:5]})
        assert error(kernel, case | {"x": with_nan[:5]}, short) <= 1


@every_kernel
def test_infinity_and_nan_stay_in_their_row(kernel):
    case = make_case(kernel, 5, 12, 192, mx.float16)
    x = np.array(case["x"])
    x[1, 7], x[2, 9] = np.inf, np.nan
    with emulator.using(checks=False, seeds=(0,)):
        y = np.array(kernel.launch(**case | {"x": mx.array(x)}))
    assert np.isfinite(y[[0, 3, 4]]).all() and not np.isfinite(y[[1, 2]]).any()


@every_kernel
def test_supports_views_and_leading_dimensions(kernel):
    case = make_case(kernel, 6, 12, 192, mx.float16)
    strided = mx.stack([case["x"], case["x"] + 1])[:, 1:4]
    with emulator.using(checks=False, seeds=(0,)):
        y = kernel.launch(**case | {"x": strided})
        flat = kernel.launch(**case | {"x": mx.contiguous(strided).reshape(6, 192)})
    assert y.shape == (2, 3, 12) and same_bits(y.reshape(6, 12), flat)


@pytest.mark.full("metal")
@every_kernel
def test_large_shapes(kernel):
    """As wide as an 8B model's layers, and more outputs than one wave of groups."""
    for n, k in ((24, 12288), (4100, 128)):
        case = make_case(kernel, 16, n, k, mx.bfloat16)
        with emulator.using(checks=False, seeds=(0,)):
            assert error(kernel, case, kernel.launch(**case)) <= 1


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=mx.zeros((17, 192), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((0, 192), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((2, 192))), "scales of the input's dtype"),
        (dict(x=mx.zeros((2, 256), mx.float16)), "as long as"),
        (dict(bits=3), "4 or 8 bits"),
        (dict(group_size=16), "groups of"),
        (dict(biases=None), "affine"),
    ],
    ids=str,
)
def test_quantized_cases_that_are_not_supported(change, words):
    case = quantized_case(2, 16, 192, mx.float16)
    assert bm.quantized_refusal(**case) == ""
    assert words in bm.quantized_refusal(**case | change)


def test_arrays_of_few_elements_are_not_supported():
    """MLX passes them in another address space."""
    case = quantized_case(2, 3, 64, mx.float16)
    assert "elements" in bm.quantized_refusal(**case)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=mx.zeros((17, 48), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((2, 48))), "weights of the input's dtype"),
        (dict(x=mx.zeros((2, 50), mx.float16)), "as long as"),
        (dict(weight=mx.zeros((1, 48), mx.float16)), "single output"),
        (dict(weight=mx.zeros((3, 4, 48), mx.float16)), "one matrix"),
        (dict(x=mx.zeros((2, 1), mx.float16), weight=mx.zeros((4, 1), mx.float16)),
         "elements"),
        (dict(x=mx.zeros((2, 48), mx.int32), weight=mx.zeros((4, 48), mx.int32)),
         "float32"),
    ],
    ids=str,
)  # fmt: skip
def test_dense_cases_that_are_not_supported(change, words):
    case = dense_case(2, 16, 48, mx.float16)
    assert bm.dense_refusal(**case) == ""
    assert words in bm.dense_refusal(**case | change)


# ------------------------------------------------------------------- planted faults
