"""The exact matmul kernels have the bits of MLX's own kernels for one row, which run on
the emulator from the headers of the installed MLX."""

from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx.metal import block_matmul as bm
from tests import emulator
from tests.metal.matmul_cases import dense_case, in_full, quantized_case, same_bits

pytestmark = pytest.mark.usefixtures("metal")

HEADERS = Path(mx.__file__).parent / "include/mlx/backend/metal/kernels"
FOLDER = "mlx/backend/metal/kernels"
TYPES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
# Ways in which hardware may differ. The bits must be equal in each.
MODELS = [
    dict(contract=contract, simd_order=order, ftz=ftz)
    for contract, order, ftz in [
        ("on", 0, False),
        ("off", 1, False),
        ("on", 2, True),
        ("off", 3, True),
    ]
]


every_model = pytest.mark.parametrize(
    "model", [MODELS[0], *map(in_full, MODELS[1:])], ids=str
)


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


def header(name):
    return (HEADERS / name).read_text()


def mlx_quantized(x, weight, scales, biases, group_size, bits):
    """Each row of x [M, K] by the kernel that MLX 0.32.4 runs for one row."""
    m, k = x.shape
    n = weight.shape[0]
    kind = f"{TYPES[x.dtype]}, {group_size}, {bits}"
    call, width, simdgroups = f"affine_qmv<{kind}, false>", 8, 2
    if k in (64, 128):
        call, width, simdgroups = f"affine_qmv_quad<{kind}, {k}, false>", 64, 1
    elif k % (512 if bits == 4 else 256) == 0:
        tail = str(n % 8 != 0).lower()
        call = f"affine_qmv_fast<{kind}, false, {tail}>"
    source = "".join(
        f'#include "{FOLDER}/{name}"\n'
        for name in ("steel/gemm/gemm.h", "quantized_utils.h")
    )
    source += header("quantized.h")
    none, strides = ints(*[0] * 4), ints(*[0] * 4, dtype=np.int64)
    buffers = {0: weight, 1: scales, 2: biases, 3: x, 5: ints(k), 6: ints(n)}
    buffers |= {7: ints(1), 8: none, 9: strides, 10: ints(1), 11: none}
    buffers |= {12: strides, 13: strides, 14: strides}
    return emulator.run_source(
        source,
        call,
        buffers,
        {4: ((m, n), x.dtype)},
        groups=(m, -(-n // width), 1),
        threadgroup=(32, simdgroups, 1),
    )[4]


def mlx_dense(x, weight):
    """Each row of x [M, K] by MLX's gemv, with the template arguments that MLX uses."""
    (m, k), n = x.shape, weight.shape[0]
    bm_, bn, sm, sn, tm = (8 if n >= 4096 else 4), 1, 1, 32, 1 if n < 4 else 4
    if k <= 64:
        bm_, sm, sn = 1, 8, 4
    elif k >= 16 * n:
        bm_, bn = 1, 8
    # One lane of each SIMD group waits for the other groups inside a branch, which the
    # emulator reports as a fault. In reverse order (seed 1) no barrier is needed.
    barrier = "threadgroup_barrier(mem_flags::mem_none);"
    source = header("gemv.h")
    assert barrier in source
    source = source.replace(barrier, "")
    buffers = {0: weight, 1: x, 2: x, 4: ints(k), 5: ints(n), 6: ints(k)}
    buffers |= {7: np.zeros(1, np.float32), 8: np.zeros(1, np.float32), 9: ints(1)}
    buffers |= {10: ints(m), 11: ints(k, dtype=np.int64), 12: ints(0, dtype=np.int64)}
    buffers |= {13: ints(0, dtype=np.int64), 14: ints(0)}
    with emulator.using(seeds=(1,)):
        return emulator.run_source(
            source,
            f"gemv<{TYPES[x.dtype]}, {bm_}, {bn}, {sm}, {sn}, {tm}, 4, false, false>",
            buffers,
            {3: ((m, n), x.dtype)},
            groups=(-(-n // (bm_ * sm * tm)), 1, m),
            threadgroup=(32, bn, bm_),
        )[3]


@every_model
@pytest.mark.parametrize(
    "n, k, group_size, bits_, dtype",
    [
        (24, 64, 64, 4, mx.bfloat16),
        (70, 128, 32, 8, mx.float16),
        (13, 192, 64, 4, mx.bfloat16),
        (16, 512, 128, 8, mx.float16),
        (13, 1024, 64, 4, mx.bfloat16),
        (5, 768, 32, 4, mx.float16),
    ],
    ids="quad64 quad128 qmv fast fast_tail qmv_tail".split(),
)
def test_quantized_bits(n, k, group_size, bits_, dtype, model):
    """Each of MLX's three kernels, with partly filled tiles and tails of K."""
    case = quantized_case(16, n, k, dtype, group_size, bits_)
    with emulator.using(checks=False, seeds=(0,), **model):
        expected = mlx_quantized(**case)
        for m in (2, 16):
            assert same_bits(bm.quantized(**case | {"x": case["x"][:m]}), expected[:m])


PACKINGS = list(product(TYPES, bm.GROUP_SIZES, bm.BITS))
SHAPES = [(13, 384), (13, 512), (70, 128), (16, 1024)]


@pytest.mark.full("metal")
@pytest.mark.parametrize("packing", range(len(PACKINGS)))
def test_quantized_bits_in_every_packing(packing):
    """The shapes of MLX's kernels in turn."""
    case = quantized_case(11, *SHAPES[packing % len(SHAPES)], *PACKINGS[packing])
    with emulator.using(checks=False, seeds=(0, 2)):
        assert same_bits(bm.quantized(**case), mlx_quantized(**case))


@every_model
@pytest.mark.parametrize(
    "n, k, dtype",
    [
        (24, 64, mx.bfloat16),
        (7, 61, mx.float16),
        (13, 192, mx.bfloat16),
        (9, 131, mx.float32),
        (3, 40, mx.float16),
        (2, 70, mx.bfloat16),
        (5, 1030, mx.bfloat16),
    ],
)
def test_dense_bits(n, k, dtype, model):
    """Each template of gemv that MLX uses, with partly filled tiles and tails of K."""
    case = dense_case(16, n, k, dtype)
    with emulator.using(checks=False, seeds=(0,), **model):
        expected = mlx_dense(**case)
        for m in (2, 16):
            assert same_bits(bm.dense(case["x"][:m], case["weight"]), expected[:m])


@pytest.mark.full("metal")
def test_dense_bits_with_many_outputs():
    """From 4096 outputs on gemv uses larger threadgroups."""
    case = dense_case(5, 4099, 72, mx.bfloat16)
    with emulator.using(checks=False, seeds=(0,)):
        assert same_bits(bm.dense(**case), mlx_dense(**case))
