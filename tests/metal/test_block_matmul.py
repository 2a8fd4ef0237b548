"""Block matmul kernels, run on the emulator: against their twins, against MLX's own
kernels bit for bit, and with faults planted."""

from functools import partial
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx.metal import block_matmul as bm
from dflash_mlx.metal import kernel as kernels
from tests import emulator

pytestmark = pytest.mark.usefixtures("metal")

HEADERS = Path(mx.__file__).parent / "include/mlx/backend/metal/kernels"
FOLDER = "mlx/backend/metal/kernels"
TYPES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
WORDS = {2: mx.uint16, 4: mx.uint32}
ROWS = range(1, bm.MOST_ROWS + 1)
# Ways in which hardware may differ, all of which must leave bits alike.
MODELS = [
    dict(contract=contract, simd_order=order, ftz=ftz)
    for contract, order, ftz in [
        ("on", 0, False),
        ("off", 1, False),
        ("on", 2, True),
        ("off", 3, True),
    ]
]


def bits(array):
    return array.view(WORDS[array.dtype.size])


def same(a, b):
    return a.shape == b.shape and mx.array_equal(bits(a), bits(b)).item()


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


# ---------------------------------------------------------------- MLX's own kernels


def header(name):
    return (HEADERS / name).read_text()


def stock_quantized(x, weight, scales, biases, group_size, bits):
    """Every row of x [M, K] by the kernel that MLX 0.32.4 takes for one row."""
    m, k = x.shape
    n = weight.shape[0]
    kind = f"{TYPES[x.dtype]}, {group_size}, {bits}"
    call, width, together = f"affine_qmv<{kind}, false>", 8, 2
    if k in (64, 128):
        call, width, together = f"affine_qmv_quad<{kind}, {k}, false>", 64, 1
    elif k % (512 if bits == 4 else 256) == 0:
        partial = str(n % 8 != 0).lower()
        call = f"affine_qmv_fast<{kind}, false, {partial}>"
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
        threadgroup=(32, together, 1),
    )[4]


def stock_dense(x, weight):
    """Every row of x [M, K] by MLX's gemv, with its choice of template."""
    (m, k), n = x.shape, weight.shape[0]
    bm_, bn, sm, sn, tm = (8 if n >= 4096 else 4), 1, 1, 32, 1 if n < 4 else 4
    if k <= 64:
        bm_, sm, sn = 1, 8, 4
    elif k >= 16 * n:
        bm_, bn = 1, 8
    # Its SIMD groups wait for one another in a branch that one lane of each takes,
    # which the emulator refuses. In reverse order nobody has to wait.
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


# ------------------------------------------------------------------------- calls


def packed_case(rows, n, k, dtype, group_size=64, bits=4, seed=0):
    x, weight = plain_case(rows, n, k, dtype, seed).values()
    weight, scales, biases = mx.quantize(weight, group_size, bits)
    return dict(
        x=x, weight=weight, scales=scales, biases=biases,
        group_size=group_size, bits=bits,
    )  # fmt: skip


def plain_case(rows, n, k, dtype, seed=0):
    mx.random.seed(seed)
    x = mx.random.normal((rows, k)).astype(dtype)
    weight = (0.05 * mx.random.normal((n, k))).astype(dtype)
    return dict(x=x, weight=weight)


def error(kernel, case, y):
    """Largest difference to the twin, in tolerances."""
    wanted = kernel.twin(**case).astype(mx.float32)
    off = mx.abs(y.astype(mx.float32) - wanted).max().item()
    return off / kernel.tolerance(**case) if off == off else float("inf")


def names(kernel):
    return kernel.name


in_full = partial(pytest.param, marks=pytest.mark.full("metal"))
every_model = pytest.mark.parametrize(
    "model", [MODELS[0], *map(in_full, MODELS[1:])], ids=str
)
every_kernel = pytest.mark.parametrize("kernel", bm.KERNELS, ids=names)


@every_kernel
@pytest.mark.full("metal")
def test_agrees_with_its_twin(kernel):
    """All packings and shapes: tails, fewer outputs than a tile, 1 to 16 rows."""
    with emulator.using(checks=False, seeds=(0, 1, 2)):
        for case in kernel.cases():
            assert kernel.refuses(**case) == ""
            assert error(kernel, case, kernel.launch(**case)) <= 1


@every_kernel
def test_touches_only_what_is_its_own(kernel):
    """Bounds, races and address spaces, at shapes with tails on every side."""
    cases = (
        [packed_case(3, 13, 192, mx.bfloat16), packed_case(9, 70, 128, mx.float16)]
        if kernel.name.startswith("quantized")
        else [plain_case(3, 13, 131, mx.bfloat16), plain_case(9, 3, 61, mx.float16)]
    )
    cases += [plain_case(2, 5, 300, mx.float32)] if len(cases[0]) == 2 else []
    with emulator.using(checks=True, spaces=True, seeds=(0, 1, 2, 3)):
        for case in cases:
            assert error(kernel, case, kernel.launch(**case)) <= 1


def in_double(case):
    """x, the weights, and the sizes of what they are made of."""
    x, weight = case["x"], case["weight"]
    sizes = mx.abs(weight)
    if "scales" in case:
        scales, biases, *packing = list(case.values())[2:]
        sizes = mx.dequantize(weight, mx.abs(scales), mx.abs(biases), *packing)
        weight = mx.dequantize(weight, scales, biases, *packing)
    return [np.array(array, np.float64) for array in (x, weight, sizes)]


@every_kernel
@pytest.mark.parametrize("model", range(4))
def test_is_right_however_sums_are_ordered(kernel, model):
    """In float32, where nothing hides an error: within rounding of an exact sum.

    Each of K steps rounds a partial sum, which grows as the root of its terms; four
    standard deviations.
    """
    packed = kernel.name.startswith("quantized")
    case = (packed_case if packed else plain_case)(11, 21, 640, mx.float32)
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


# ------------------------------------------------------------------- exact variants


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
def test_quantized_bits_are_mlxs(n, k, group_size, bits_, dtype, model):
    """Each of its three kernels, with outputs that fill no tile, and tails of K."""
    case = packed_case(16, n, k, dtype, group_size, bits_)
    with emulator.using(checks=False, seeds=(0,), **model):
        wanted = stock_quantized(**case)
        for m in (2, 16):
            assert same(bm.quantized(**case | {"x": case["x"][:m]}), wanted[:m])


PACKINGS = list(product(TYPES, bm.GROUP_SIZES, bm.BITS))
SHAPES = [(13, 384), (13, 512), (70, 128), (16, 1024)]


@pytest.mark.full("metal")
@pytest.mark.parametrize("packing", range(len(PACKINGS)))
def test_quantized_bits_are_mlxs_in_every_packing(packing):
    """By turns for each of its kernels."""
    case = packed_case(11, *SHAPES[packing % len(SHAPES)], *PACKINGS[packing])
    with emulator.using(checks=False, seeds=(0, 2)):
        assert same(bm.quantized(**case), stock_quantized(**case))


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
def test_dense_bits_are_mlxs(n, k, dtype, model):
    """Each choice of gemv's template, with outputs that fill no tile, and tails."""
    case = plain_case(16, n, k, dtype)
    with emulator.using(checks=False, seeds=(0,), **model):
        wanted = stock_dense(**case)
        for m in (2, 16):
            assert same(bm.dense(case["x"][:m], case["weight"]), wanted[:m])


@pytest.mark.full("metal")
def test_dense_bits_are_mlxs_for_many_outputs():
    """From 4096 outputs on gemv takes larger threadgroups."""
    case = plain_case(5, 4099, 72, mx.bfloat16)
    with emulator.using(checks=False, seeds=(0,)):
        assert same(bm.dense(**case), stock_dense(**case))


@pytest.mark.parametrize(
    "launch, case",
    [
        (bm.quantized, packed_case(16, 20, 320, mx.bfloat16, 32)),
        (bm.quantized, packed_case(16, 20, 1024, mx.float16, 128, 8)),
        (bm.dense, plain_case(16, 20, 200, mx.bfloat16)),
        in_full(bm.quantized, packed_case(16, 20, 128, mx.bfloat16)),
        in_full(bm.dense, plain_case(16, 4, 200, mx.float16)),
        in_full(bm.dense, plain_case(16, 20, 61, mx.bfloat16)),
    ],
    ids="qmv qmv_fast gemv qmv_quad split short".split(),
)
@pytest.mark.parametrize("contract", ("on", in_full("off")))
def test_a_row_has_its_bits_in_every_block(launch, case, contract):
    """1 to 16 rows, in any place of the block."""
    x = case["x"]
    with emulator.using(checks=False, seeds=(0,), contract=contract):
        alone = mx.concatenate([launch(**case | {"x": row[None]}) for row in x])
        for m in ROWS:
            assert same(launch(**case | {"x": x[:m]}), alone[:m])
            assert same(launch(**case | {"x": x[-m:]}), alone[-m:])


@every_kernel
def test_rows_past_the_last_are_not_read(kernel):
    """What lies behind x in memory, NaN here, has no part in y."""
    packed = kernel.name.startswith("quantized")
    case = (packed_case if packed else plain_case)(16, 12, 192, mx.float16)
    held = mx.concatenate([case["x"][:5], mx.full((11, 192), float("nan"), mx.float16)])
    mx.eval(held)
    with emulator.using(checks=False, seeds=(0,)):
        short = kernel.launch(**case | {"x": held[:5]})
        assert error(kernel, case | {"x": held[:5]}, short) <= 1


@every_kernel
def test_infinite_and_missing_numbers_stay_in_their_row(kernel):
    packed = kernel.name.startswith("quantized")
    case = (packed_case if packed else plain_case)(5, 12, 192, mx.float16)
    x = np.array(case["x"])
    x[1, 7], x[2, 9] = np.inf, np.nan
    with emulator.using(checks=False, seeds=(0,)):
        y = np.array(kernel.launch(**case | {"x": mx.array(x)}))
    assert np.isfinite(y[[0, 3, 4]]).all() and not np.isfinite(y[[1, 2]]).any()


@every_kernel
def test_takes_views_and_leading_dimensions(kernel):
    packed = kernel.name.startswith("quantized")
    case = (packed_case if packed else plain_case)(6, 12, 192, mx.float16)
    strided = mx.stack([case["x"], case["x"] + 1])[:, 1:4]
    with emulator.using(checks=False, seeds=(0,)):
        y = kernel.launch(**case | {"x": strided})
        flat = kernel.launch(**case | {"x": mx.contiguous(strided).reshape(6, 192)})
    assert y.shape == (2, 3, 12) and same(y.reshape(6, 12), flat)


@pytest.mark.full("metal")
@every_kernel
def test_large_shapes(kernel):
    """As wide as an 8B model's layers, and more outputs than one wave of groups."""
    packed = kernel.name.startswith("quantized")
    for n, k in ((24, 12288), (4100, 128)):
        case = (packed_case if packed else plain_case)(16, n, k, mx.bfloat16)
        with emulator.using(checks=False, seeds=(0,)):
            assert error(kernel, case, kernel.launch(**case)) <= 1


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=mx.zeros((17, 192), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((0, 192), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((2, 192))), "scales of the input's type"),
        (dict(x=mx.zeros((2, 256), mx.float16)), "as long as"),
        (dict(bits=3), "4 or 8 bits"),
        (dict(group_size=16), "groups of"),
        (dict(biases=None), "affine"),
    ],
    ids=str,
)
def test_refuses_quantized(change, words):
    case = packed_case(2, 16, 192, mx.float16)
    assert bm.refuses_quantized(**case) == ""
    assert words in bm.refuses_quantized(**case | change)


def test_refuses_few_elements():
    """MLX hands them over in another address space."""
    case = packed_case(2, 3, 64, mx.float16)
    assert "elements" in bm.refuses_quantized(**case)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(x=mx.zeros((17, 48), mx.float16)), "1 to 16 rows"),
        (dict(x=mx.zeros((2, 48))), "weights of the input's type"),
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
def test_refuses_dense(change, words):
    case = plain_case(2, 16, 48, mx.float16)
    assert bm.refuses_dense(**case) == ""
    assert words in bm.refuses_dense(**case | change)


# ------------------------------------------------------------------- planted faults

FAULTS = [
    # kernel, what is there, what is put in its place
    ("quantized_matmul_exact", "if (m < M) {", "{"),  # over-read at the last row
    ("quantized_matmul_exact", "part == 0 && m < M &&", "part == 0 &&"),
    ("quantized_matmul_exact", "min(first + i * apart, N - 1)", "first + i * apart"),
    ("quantized_matmul_exact", "k / group_size;", "(k + 32) / group_size;"),
    ("quantized_matmul_exact", "b / 16.0f", "b / 8.0f"),
    ("quantized_matmul_exact", "float accum = 0;", "half accum = 0;"),
    ("quantized_matmul_exact", "simdgroup * outputs * apart + lane / lanes",
     "simdgroup * outputs * apart + lane % lanes"),  # wrong lane map
    ("matmul_exact", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("matmul_exact", "!tail || j < left", "true"),
    ("matmul_exact", "if (left > 0) {", "if (left > 4) {"),
    ("matmul_exact", "lanes / 2; apart >= 1", "lanes / 4; apart >= 1"),
    ("quantized_matmul_fast", "(lane / 2) % 4;", "(lane / 4) % 4;"),  # wrong lane map
    ("quantized_matmul_fast", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("quantized_matmul_fast", "+ e, M - 1)", "+ e, 15)"),
    ("quantized_matmul_fast", "scales[k / group_size]", "scales[0]"),
    ("quantized_matmul_fast", "!tail || k < K;", "true;"),
    ("quantized_matmul_fast", "m < M && output < N", "m < M"),
    ("matmul_fast", "!tail || i < left ? float(from[i]) : 0.0f", "float(from[i])"),
    ("matmul_fast", "float total = shared[e];", "half total = shared[e];"),
]  # fmt: skip


def is_caught(kernel):
    """Whether a check of this file would go red."""
    packed = kernel.name.startswith("quantized")
    make, tail = (packed_case, 1088) if packed else (plain_case, 1027)
    with emulator.using(checks=True, seeds=(0, 1, 2)):
        for n, k in ((13, 192), (4, tail)):
            case = make(5, n, k, mx.float32)
            try:
                y = kernel.launch(**case)
            except emulator.EmulatorError:
                return True
            if error(kernel, case, y) > 1:
                return True
    return False


@every_kernel
@pytest.mark.full("metal")
def test_finds_no_fault_where_none_is(kernel):
    assert not is_caught(kernel)


@pytest.mark.full("metal")
@pytest.mark.parametrize("name, old, new", FAULTS)
def test_finds_planted_fault(name, old, new, monkeypatch):
    (kernel,) = (kernel for kernel in bm.KERNELS if kernel.name == name)
    text = kernels.source(kernel.source)
    assert old in text
    monkeypatch.setattr(kernels, "source", lambda name: text.replace(old, new))
    kernels.compiled.cache_clear()
    assert is_caught(kernel)
