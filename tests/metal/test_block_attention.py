"""block_attention: correct to rounding, and the bits of a row depend only on the keys
that it sees.

Launches run on the emulator in several orders of threads, with bounds and race checks.
"""

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx.metal import block_attention
from dflash_mlx.metal.block_attention import (
    KERNEL,
    chunk_at,
    sample,
    threadgroup_shape,
)
from tests import emulator

CASES = list(KERNEL.cases())
# Ways in which hardware may differ: one at a time, then all at once, then two ways to
# contract.
HARDWARE = [
    *({"simd_order": n} for n in (1, 2, 3)),
    *({"mma_order": n} for n in (1, 2, 3)),
    *({"exp_mode": n} for n in (1, 2)),
    {"ftz": True},
    {"simd_order": 2, "mma_order": 2, "exp_mode": 2, "ftz": True},
    {"contract": "off"},
    {"contract": "fast", "mma_order": 1},
]


def bits(x):
    """An array's bit patterns."""
    return np.array(x.view(mx.uint32 if x.dtype == mx.float32 else mx.uint16))


def error(case):
    """The largest difference from the twin; NaN if one of the two has a NaN."""
    found = KERNEL.launch(**case).astype(mx.float32)
    return mx.abs(found - KERNEL.twin(**case)).max().item()


def check(case):
    """Assert that the kernel supports a case and agrees with its twin."""
    assert KERNEL.refusal(**case) == ""
    assert error(case) <= KERNEL.tolerance(**case)


def visible(case, row):
    """The keys that a row sees: a bool array [N]."""
    mask, length, rows = case["mask"], case["k"].shape[2], case["q"].shape[2]
    if mask is None:
        return np.ones(length, bool)
    if isinstance(mask, str):
        return np.arange(length) <= length - rows + row
    return np.array(mask.reshape(rows, length)[row])


def alone(case, row):
    """The case of a single row, with the keys from the first to the last it sees."""
    seen = np.flatnonzero(visible(case, row))
    low, high = seen[0], seen[-1] + 1
    whole = len(seen) == high - low
    return case | {
        "q": case["q"][:, :, row : row + 1],
        "k": mx.contiguous(case["k"][:, :, low:high]),
        "v": mx.contiguous(case["v"][:, :, low:high]),
        "mask": None if whole else mx.array(visible(case, row)[None, low:high]),
        "first": case["first"] + int(low),
    }


def first_rows(case, rows):
    """The first rows of a causal block, with the keys that they see."""
    end = case["k"].shape[2] - case["q"].shape[2] + rows
    parts = {"k": case["k"][:, :, :end], "v": case["v"][:, :, :end]}
    return case | parts | {"q": case["q"][:, :, :rows]}


def check_alone(case, rows=None):
    """Assert that each row of a block has the bits that it has alone."""
    block = bits(KERNEL.launch(**case))
    for row in range(case["q"].shape[2]) if rows is None else rows:
        one = bits(KERNEL.launch(**alone(case, row)))
        np.testing.assert_array_equal(block[:, :, row], one[:, :, 0])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[2:20:5])
def test_agrees_with_its_twin_for_a_few_shapes(metal, case):
    check(case)


@pytest.mark.full("metal")
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_its_twin(metal, case):
    check(case)


@pytest.mark.full("metal")
def test_mixes_no_address_spaces(metal):
    with emulator.using(spaces=True, seeds=(0,)):
        for mask in (None, 9):
            for dtype in block_attention.DTYPES:
                check(sample(4, 2, 3, 40, 64, dtype, mask, sinks=mask is None))


@pytest.mark.full("metal")
@pytest.mark.parametrize("length", [31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 1153])
def test_tiles_and_chunks_end_where_keys_do(metal, length):
    check(sample(2, 1, 2, length, 64, mx.float32, "causal"))
    check(sample(2, 1, 2, 7, 64, mx.float32, "causal", first=length - 3))


def test_chunks_follow_one_another():
    positions = [*range(5000), *range(30_000, 34_000), *range(65_000, 140_000, 7)]
    chunks = [chunk_at(p) for p in positions]
    octaves = [min(max(c // 8 - 1, 0), 5) for c in chunks]
    starts = [(128 << o) * (c - 8 * o) for c, o in zip(chunks, octaves, strict=True)]
    ends = [s + (128 << o) for s, o in zip(starts, octaves, strict=True)]
    inside = zip(starts, positions, ends, strict=True)
    assert all(s <= p < e and s % 32 == 0 for s, p, e in inside)
    assert chunk_at(127) == 0 and chunk_at(128) == 1 and chunk_at(1024) == 8


def test_scratch_fits():
    for dim in block_attention.HEAD_DIMS:
        for size in (2, 4):
            for pairs in range(1, 257):
                tiles, simds = threadgroup_shape(pairs, dim, size)
                scratch = 8 * tiles * (dim * size + 4 * block_attention.PITCH + 4)
                assert scratch + 4 * simds <= 32 * 1024
                assert tiles <= simds <= 8


@pytest.mark.slow
def test_a_mask_may_hide_any_keys(metal):
    case = sample(4, 2, 6, 150, 64, mx.float32, sinks=True)
    mask = mx.random.uniform(shape=(6, 150), key=mx.random.key(3)) < 0.3
    case["mask"] = mask | (mx.arange(150) == 149)
    check(case)
    check_alone(case)
    case["mask"] = case["mask"][None, None]
    check(case)


def test_a_row_that_sees_nothing_is_zero(metal):
    for sinks in (True, False):
        case = sample(4, 2, 3, 140, 64, mx.float16, 9, sinks)
        expected = bits(KERNEL.launch(**case))
        case["mask"] = case["mask"] & (mx.arange(3) != 1)[:, None]
        found = bits(KERNEL.launch(**case))
        assert not found[:, :, 1].any()
        np.testing.assert_array_equal(found[:, :, ::2], expected[:, :, ::2])


def test_takes_keys_and_values_with_any_strides(metal):
    case = sample(4, 2, 3, 60, 64, mx.bfloat16, "causal")
    expected = bits(KERNEL.launch(**case))
    turned = {x: mx.contiguous(case[x].transpose(0, 2, 1, 3)) for x in "kvq"}
    turned = {x: y.transpose(0, 2, 1, 3) for x, y in turned.items()}
    apart = {x: mx.repeat(case[x], 2, axis=3)[..., ::2] for x in "kv"}
    backward = {"k": mx.contiguous(case["k"][:, :, ::-1])[:, :, ::-1]}
    for strides in (turned, apart, backward):
        np.testing.assert_array_equal(bits(KERNEL.launch(**case | strides)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sinks", [False, True])
def test_rows_have_the_bits_that_they_have_alone(metal, sinks):
    check_alone(sample(4, 2, 5, 130, 64, mx.bfloat16, "causal", sinks))


@pytest.mark.full("metal")
@pytest.mark.parametrize(
    "dim, dtype",
    [(64, mx.bfloat16), (96, mx.float32), (128, mx.float16), (256, mx.bfloat16)],
)
def test_every_width_gives_a_row_the_same_bits(metal, dim, dtype):
    case = sample(4, 1, 16, 140, dim, dtype, "causal")
    with emulator.using(checks=False, seeds=(0,)):
        block = bits(KERNEL.launch(**case))
        for rows in range(1, 16):
            found = bits(KERNEL.launch(**first_rows(case, rows)))
            np.testing.assert_array_equal(found, block[:, :, :rows])
        check_alone(case)


@pytest.mark.full("metal")
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (6, 2), (16, 1)])
def test_heads_that_share_keys_keep_their_bits(metal, heads, kv_heads):
    case = sample(heads, kv_heads, 7, 81, 64, mx.bfloat16, "causal", first=50)
    with emulator.using(seeds=(0,)):
        check(case)
        check_alone(case)


@pytest.mark.full("metal")
@pytest.mark.parametrize("hardware", HARDWARE, ids=str)
@pytest.mark.parametrize("mask", ["causal", 37])
@pytest.mark.parametrize("length", [132, 164])
def test_rows_keep_their_bits_on_all_hardware(metal, hardware, mask, length):
    # The first rows do not see the last tile, nor at 132 keys the last chunk.
    case = sample(8, 2, 9, length, 64, mx.float32, mask, True)
    with emulator.using(checks=False, seeds=(0, 1), **hardware):
        check(case)
        check_alone(case, rows=(0, 3, 8))
        if mask == "causal":
            found = bits(KERNEL.launch(**first_rows(case, 4)))
            np.testing.assert_array_equal(found, bits(KERNEL.launch(**case))[:, :, :4])


@pytest.mark.slow
@pytest.mark.parametrize("window", [40, 200])
def test_windows_that_begin_elsewhere_give_equal_bits(metal, window):
    case = sample(4, 2, 4, 310, 64, mx.float16, window, True, first=1000)
    expected = bits(KERNEL.launch(**case))
    for cut in (1, 31, 300 - window if window < 300 else 0):
        parts = {x: case[x][:, :, cut:] for x in "kv"}
        later = parts | {"mask": case["mask"][:, cut:], "first": 1000 + cut}
        np.testing.assert_array_equal(bits(KERNEL.launch(**case | later)), expected)
    check_alone(case)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_row_ignores_numbers_that_are_not_finite_in_keys_it_does_not_see(
    metal, value
):
    case = sample(4, 2, 5, 140, 64, mx.float16, "causal")
    expected = bits(KERNEL.launch(**case))
    for part in "kv":
        spoiled = mx.array(case[part])
        spoiled[:, :, -2, 3] = value
        found = KERNEL.launch(**case | {part: spoiled})
        np.testing.assert_array_equal(bits(found)[:, :, :3], expected[:, :, :3])
        check_alone(case | {part: spoiled}, rows=(0, 2))
    assert mx.isnan(found[:, :, 3:]).all().item()


@pytest.mark.full("metal")
def test_a_result_that_underflows_is_positive_zero(metal):
    # A sink reduces the sums to 1e-44, and the first rows do not see the last chunk.
    case = sample(2, 1, 9, 132, 64, mx.float32, "causal")
    case |= {"k": 0 * case["k"], "v": -1e-5 * mx.abs(case["v"])}
    case["sinks"] = mx.array([100.0, 100.0])
    check_alone(case, rows=(0, 8))
    assert not bits(KERNEL.launch(**case)).any()


@pytest.mark.full("metal")
def test_a_hundred_thousand_keys(metal):
    case = sample(2, 1, 2, 100_000, 64, mx.float16, "causal")
    with emulator.using(checks=False, seeds=(0,)):
        check(case)
        check_alone(case)


def test_cases_that_are_not_supported():
    case = sample(4, 2, 3, 20, 64, mx.float16, "causal")
    q, k = case["q"], case["k"]
    assert KERNEL.refusal(**case) == ""
    bad = [
        {"q": q.astype(mx.float32)},
        {x: case[x].astype(mx.int32) for x in "qkv"},
        {"k": (k, k, k)},
        {"q": mx.concatenate([q, q])},
        {"k": k[:, :, 1:]},
        {x: case[x][..., :40] for x in "qkv"},
        {"q": q[..., :48]},
        {"q": q[:, :3]},
        {"q": mx.repeat(q, 6, axis=2)},
        {x: case[x][:, :, :2] for x in "kv"},
        {x: case[x][:, :, :0] for x in "kv"},
        {"first": -1},
        {"first": 2**31},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"mask": "window"},
        {"mask": mx.zeros((3, 20))},
        {"mask": mx.ones((1, 4, 3, 20), mx.bool_)},
        {"mask": mx.ones((20,), mx.bool_)},
        {"sinks": mx.zeros((3,))},
        {"sinks": mx.zeros((4,), mx.int32)},
    ]
    for change in bad:
        assert KERNEL.refusal(**case | change), change
