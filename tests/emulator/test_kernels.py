"""The emulator computes as Metal does: Metal's functions, kernels of MLX and mlx-lm."""

import importlib.util
from functools import reduce

import mlx.core as mx
import numpy as np
import pytest

from tests import emulator

LANES = np.arange(32)
V = (LANES * 7 % 32 + 1).astype(np.float32)
QUADS = LANES & ~3


def lanes(expression, x=V, **options):
    """An expression of `v` and `l`, evaluated in each lane of one simdgroup."""
    kernel = emulator.metal_kernel(
        name="lanes",
        input_names=["x"],
        output_names=["y"],
        source="ushort l = thread_index_in_simdgroup; auto v = x[l];\n"
        f"y[l] = {expression};",
    )
    with emulator.using(**options):
        (y,) = kernel(
            inputs=[mx.array(x)],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[(32,)],
            output_dtypes=[mx.float32],
        )
    return np.array(y)


EXPRESSIONS = {
    "simd_sum(v)": V.sum(),
    "simd_product(l < 9 ? 2.0f : 1.0f)": 512,
    "simd_max(v)": V.max(),
    "simd_min(v)": V.min(),
    "simd_and(uint(l) | 96u)": 96,
    "simd_or(uint(l))": 31,
    "simd_xor(uint(l) * 3)": np.bitwise_xor.reduce(LANES * 3),
    "simd_prefix_inclusive_sum(v)": V.cumsum(),
    "simd_prefix_exclusive_sum(v)": V.cumsum() - V,
    "simd_prefix_inclusive_product(l < 5 ? 2.0f : 1.0f)": 2.0
    ** np.minimum(LANES + 1, 5),
    "simd_prefix_exclusive_product(l < 5 ? 2.0f : 1.0f)": 2.0 ** np.minimum(LANES, 5),
    "simd_shuffle(v, (l * 5 + 3) & 31)": V[(LANES * 5 + 3) & 31],
    "simd_shuffle_xor(v, 9)": V[LANES ^ 9],
    "simd_shuffle_up(v, 3)": np.where(LANES < 3, V, V[LANES - 3]),
    "simd_shuffle_down(v, 3)": np.where(LANES > 28, V, V[(LANES + 3) & 31]),
    "simd_shuffle_rotate_up(v, 3)": V[(LANES - 3) & 31],
    "simd_shuffle_rotate_down(v, 3)": V[(LANES + 3) & 31],
    "simd_shuffle_and_fill_up(v, -v, 3)": np.where(
        LANES < 3, -V[(LANES - 3) & 31], V[LANES - 3]
    ),
    "simd_shuffle_and_fill_down(v, -v, 3)": np.where(LANES > 28, -1, 1)
    * V[(LANES + 3) & 31],
    "simd_broadcast(v, 6)": V[6],
    "simd_broadcast_first(v)": V[0],
    "simd_is_first() ? 1 : 0": LANES == 0,
    "simd_all(v > 0) + 2 * simd_any(v > 31) + 4 * simd_all(l > 0)": 3,
    "ulong(simd_ballot(l < 4 || l == 20))": 15 + 2**20,
    "quad_sum(v)": V.reshape(8, 4).sum(1).repeat(4),
    "quad_max(v)": V.reshape(8, 4).max(1).repeat(4),
    "quad_min(v)": V.reshape(8, 4).min(1).repeat(4),
    "quad_shuffle(v, 3 - (l & 3))": V[QUADS + 3 - (LANES & 3)],
    "quad_shuffle_xor(v, 1)": V[LANES ^ 1],
    "quad_shuffle_up(v, 1)": np.where(LANES & 3, V[LANES - 1], V),
    "quad_shuffle_down(v, 1)": np.where((LANES & 3) < 3, V[(LANES + 1) & 31], V),
    "quad_broadcast(v, 2)": V[QUADS + 2],
    "float4(float4(v, 1, float2(2, 3)).wzyx).w": V,
    "dot(float3(v), float3(1, 2, 3))": 6 * V,
    "(uint2(l, 3) << 2).x + float2(float2(0, v).yx).x": 4 * LANES + V,
    "any(float2(v, 5) > 31.0f) + all(float2(v) == v)": 1 + (V > 31),
    "as_type<uint>(v) >> 23": V.view(np.uint32) >> 23,
    "float(half(v * 0.1f))": np.float16(V * np.float32(0.1)),
    "clamp(v, 4.0f, 9.0f) + select(0.0f, 100.0f, l > 9)": V.clip(4, 9)
    + 100 * (LANES > 9),
    "popcount(uint(l)) + 64 * clz(uint(l))": [
        int(i).bit_count() + 64 * (32 - int(i).bit_length()) for i in LANES
    ],
    "extract_bits(uint(l), 1, 3)": LANES >> 1 & 7,
    "numeric_limits<half>::max()": 65504,
    "fma(v, v, -1.0f) + floor(v / 2) + abs(-v)": V * V - 1 + V // 2 + V,
    "1.0 / 3": np.float32(1) / np.float32(3),
}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression(metal, expression):
    expected = np.broadcast_to(np.float32(EXPRESSIONS[expression]), 32)
    assert np.array_equal(lanes(expression), expected)


def test_inactive_lanes(metal):
    """Lanes that have returned take no part, and reading their values gives garbage."""
    kernel = emulator.metal_kernel(
        name="t",
        input_names=["x"],
        output_names=["y"],
        source="uint l = thread_index_in_simdgroup; y[l] = 0; if (l >= 20) return;"
        "y[l] = simd_sum(x[l]); y[20 + l / 2] = simd_shuffle(x[l], 30);",
    )
    with emulator.using(seeds=(0, 2)):
        (y,) = kernel(
            inputs=[mx.array(V)],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[(32,)],
            output_dtypes=[mx.float32],
        )
    y = np.array(y)
    assert (y[:20] == V[:20].sum()).all() and np.isnan(y[20:30]).all()
    assert emulator.last()["inactive_reads"] == 20


def test_order_of_simd_sum(metal):
    """Each order of simd_sum, against the same order in NumPy."""
    x = (np.float32(1.37) ** LANES * (-1) ** (LANES // 3)).astype(np.float32)
    near, halves = x, x
    for d in (1, 2, 4, 8, 16):
        near = near.reshape(-1, 2).sum(1)
        halves = halves[: 16 // d] + halves[16 // d :]
    expected = (near[0], halves[0], reduce(np.add, x), reduce(np.add, x[::-1]))
    found = [lanes("simd_sum(v)", x, simd_order=i)[0] for i in range(4)]
    assert found == list(expected)
    assert len(set(found)) > 2


def test_contraction(metal):
    """(1 + e)^2 - (1 + 2e) is e^2 with a fused multiply-add, else 0."""
    x = np.full(32, 1 + 2.0**-12, np.float32)
    once = "v * v - (1 + 0x1p-11f)"
    assert (lanes(once, x, contract="on") == 2.0**-24).all()
    assert (lanes(once, x, contract="off") == 0).all()
    pinned = """[&]() {
        #pragma METAL fp contract(off)
        return v * v - (1 + 0x1p-11f); }()"""
    assert (lanes(pinned, x, contract="on") == 0).all()


@pytest.mark.parametrize("mode", (0, 1, 2))
def test_exp_modes(metal, mode):
    x = np.linspace(-9, 9, 32).astype(np.float32)
    expected = np.exp(x.astype(np.float64)).astype(np.float32)
    off = np.abs(
        lanes("exp(v)", x, exp_mode=mode).view(np.int32) - expected.view(np.int32)
    )
    # exp2(x log2 e) has the rounding error of x log2 e: 13 * 2^-24 relative to 1.
    assert off.max() == 0 if mode == 0 else 0 < off.max() <= (16, 2)[mode - 1]
    assert np.array_equal(lanes("precise::exp(v)", x, exp_mode=mode), expected)


def test_flushed_subnormals(metal):
    x = np.full(32, 2.0**-120, np.float32)
    assert (lanes("v * 0x1p-10f", x) == 2.0**-130).all()
    assert (lanes("v * 0x1p-10f", x, ftz=True) == 0).all()


@pytest.mark.parametrize("dtype", (mx.float16, mx.bfloat16))
def test_half_precision_rounds_each_step(metal, dtype):
    mx.random.seed(0)
    a, b = mx.random.normal((2, 256)).astype(dtype)
    kernel = emulator.metal_kernel(
        name="t",
        input_names=["a", "b"],
        output_names=["y"],
        source="uint i = thread_position_in_grid.x; T p = a[i] * b[i];"
        "y[i] = (p + a[i]) / b[i] - T(3) * a[i];",
    )
    (y,) = kernel(
        inputs=[a, b],
        template=[("T", dtype)],
        grid=(256, 1, 1),
        threadgroup=(64, 1, 1),
        output_shapes=[(256,)],
        output_dtypes=[dtype],
    )
    with mx.stream(mx.cpu):
        expected = (a * b + a) / b - 3 * a
    assert mx.array_equal(y, expected)


QUANTIZED = "".join(
    f'#include "mlx/backend/metal/kernels/{name}.h"\n'
    for name in ("steel/gemm/gemm", "quantized_utils", "quantized")
)
NAMES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
# The relative error of one rounding to the output's dtype.
EPS = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}


def int32(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize("dtype", NAMES)
def test_mlx_quantized_one_row_kernel(metal, dtype):
    """qmv_fast, 4-bit: K + 8 additions in float32, then one rounding to the dtype."""
    mx.random.seed(1)
    rows, K, N = 2, 512, 32
    w, scales, biases = mx.quantize(mx.random.normal((N, K)).astype(dtype), 64, 4)
    x = mx.random.normal((rows, K)).astype(dtype)
    none, strides = np.zeros(4, np.int32), np.zeros(4, np.int64)
    inputs = {0: w, 1: scales, 2: biases, 3: x, 5: int32(K), 6: int32(N), 7: int32(1)}
    inputs |= {8: none, 9: strides, 10: int32(1), 11: none, 12: strides}
    inputs |= {13: strides, 14: strides}
    y = emulator.run_source(
        QUANTIZED,
        f"affine_qmv_fast<{NAMES[dtype]}, 64, 4, false>",
        inputs,
        {4: ((rows, N), dtype)},
        groups=(rows, N // 8, 1),
        threadgroup=(32, 2, 1),
    )[4]
    full = [a.astype(mx.float32) for a in (scales, biases)]
    weights = mx.dequantize(w, *full, 64, 4)
    x = x.astype(mx.float32)
    expected, size = x @ weights.T, mx.abs(x) @ mx.abs(weights.T)
    bound = EPS[dtype] * mx.abs(expected) + 2.0**-24 * 32 * size
    assert mx.all(mx.abs(y.astype(mx.float32) - expected) <= bound)


def test_mlx_attention_kernel(metal):
    """sdpa_vector: causal, grouped heads, keys that are a slice of a longer cache."""
    mx.random.seed(2)
    heads, kv_heads, rows, context, cap, dim = 4, 2, 3, 50, 64, 64
    q = mx.random.normal((1, heads, rows, dim))
    k, v = mx.random.normal((2, 1, kv_heads, cap, dim))[:, :, :, :context]
    strides = np.array([cap * dim], np.uint64), np.array([dim], np.uint64)
    y = emulator.run_source(
        '#include "mlx/backend/metal/kernels/sdpa_vector.h"\n',
        f"sdpa_vector<float, {dim}, {dim}>",
        {0: q, 1: k, 2: v, 4: int32(heads // kv_heads), 5: int32(context)}
        | {6: strides[0], 7: strides[1], 8: strides[0], 9: strides[1]}
        | {10: np.array([dim**-0.5], np.float32)},
        {3: (q.shape, mx.float32)},
        groups=(heads, rows, 1),
        threadgroup=(1024, 1, 1),
        function_constants={22: True},
    )[3]
    expected = mx.fast.scaled_dot_product_attention(
        q, k, v, scale=dim**-0.5, mask="causal"
    )
    # Values of order 1, fewer than 64 additions.
    assert mx.abs(y - expected).max() < 64 * 2.0**-24


MATMUL = """
uint2 g = threadgroup_position_in_grid.xy;
int K = a_shape[1], N = b_shape[0];
simdgroup_matrix<T, 8, 8> A, B;
simdgroup_matrix<float, 8, 8> C = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
for (int k = 0; k < K; k += 8) {
  simdgroup_load(A, a + g.y * 8 * K, K, ulong2(k, 0));
  simdgroup_load(B, b + g.x * 8 * K + k, K, ulong2(0, 0), true);
  simdgroup_multiply_accumulate(C, A, B, C);
}
simdgroup_store(C, y + g.y * 8 * N + g.x * 8, N);
"""


def matmul(a, b, **options):
    kernel = emulator.metal_kernel("mm", ["a", "b"], ["y"], MATMUL)
    with emulator.using(**options):
        (y,) = kernel(
            inputs=[a, b],
            template=[("T", a.dtype)],
            grid=(32 * b.shape[0] // 8, a.shape[0] // 8, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[(a.shape[0], b.shape[0])],
            output_dtypes=[mx.float32],
        )
    return y


@pytest.mark.parametrize("dtype", NAMES)
def test_simdgroup_matrices(metal, dtype):
    mx.random.seed(3)
    a = mx.random.normal((16, 64)).astype(dtype)
    b = mx.random.normal((24, 64)).astype(dtype)
    wide = [m.astype(mx.float32) for m in (a, b)]
    expected, size = wide[0] @ wide[1].T, mx.abs(wide[0]) @ mx.abs(wide[1].T)
    results = [matmul(a, b, mma_order=order, seeds=(0, 1)) for order in range(4)]
    for y in results:
        assert mx.all(mx.abs(y - expected) <= 2.0**-24 * 64 * size)
    if dtype == mx.float32:
        assert not mx.array_equal(results[0], results[1])


def test_lane_map_of_matrices(metal):
    """A lane has the two elements that MLX's steel kernels expect."""
    q = LANES // 4
    row, col = (q & 4) + LANES // 2 % 4, (q & 2) * 2 + LANES % 2 * 2
    cells = np.arange(64, dtype=np.float32)
    for k in range(2):
        body = f"""[&]() {{ simdgroup_float8x8 m; simdgroup_load(m, x);
            return m.thread_elements()[{k}]; }}()"""
        assert np.array_equal(lanes(body, cells), 8 * row + col + k)
    body = """[&]() { auto m = make_diagonal_simdgroup_matrix<float, 8, 8>(5.0f);
        return m.thread_elements()[0]; }()"""
    assert np.array_equal(lanes(body, cells), 5.0 * (row == col))


@pytest.fixture
def gated_delta(metal):
    """A new copy of mlx-lm's module, which makes its kernels when it is imported."""
    spec = importlib.util.find_spec("mlx_lm.models.gated_delta")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def delta_case(dtype, B=1, T=3, Hk=1, Hv=2, Dk=128, Dv=8):
    mx.random.seed(4)
    k = mx.random.normal((B, T, Hk, Dk))
    return (
        (mx.random.normal((B, T, Hk, Dk)) * Dk**-0.5).astype(dtype),
        (k / mx.linalg.norm(k, axis=-1, keepdims=True)).astype(dtype),
        mx.random.normal((B, T, Hv, Dv)).astype(dtype),
        mx.exp(-0.2 * mx.random.uniform(shape=(B, T, Hv))),
        mx.random.uniform(shape=(B, T, Hv)).astype(dtype),
        0.1 * mx.random.normal((B, Hv, Dv, Dk)),
    )


@pytest.mark.parametrize("dtype", (mx.float32, mx.bfloat16))
def test_mlx_lm_gated_delta(gated_delta, dtype):
    case = delta_case(dtype)
    wide = [a.astype(mx.float32) for a in case]
    expected, state = gated_delta.gated_delta_ops(*wide)
    y, kept = gated_delta.gated_delta_kernel_unpacked(*case)
    # Sums of 128 products of order 1/128; y is rounded to the type.
    assert mx.abs(kept - state).max() < 128 * 2.0**-24
    error = mx.abs(y.astype(mx.float32) - expected)
    assert mx.all(error <= EPS[dtype] * mx.abs(expected) + 128 * 2.0**-24)
    packed = gated_delta.gated_delta_kernel(*case)
    assert mx.array_equal(packed[1], kept)


def test_mlx_lm_gated_delta_masked(gated_delta):
    mask = mx.array([[True, False, True]])
    case = delta_case(mx.float32)
    expected, state = gated_delta.gated_delta_ops(*case, mask=mask)
    y, kept = gated_delta.gated_delta_kernel(*case, mask)
    assert mx.abs(kept - state).max() < 128 * 2.0**-24
    assert mx.abs((y - expected)[:, ::2]).max() < 128 * 2.0**-24
