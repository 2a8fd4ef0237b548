"""gated_delta_block on the emulator: against its twin and against mlx-lm's kernels."""

import mlx.core as mx
import pytest
from mlx_lm.models import gated_delta

from dflash_mlx.metal import gated_delta_block as block
from tests import emulator

ROWS = 16
ORDERS = (0, 1, 2, 3)
BITS = {mx.float32: mx.uint32, mx.float16: mx.uint16, mx.bfloat16: mx.uint16}
# By name: heads of keys and values, Dk and Dv, dtype, gates per element. Where mlx-lm
# supports it, Dv does not fill a tile; in each some lanes' rows lie past the end.
LAYERS = {
    "packed": ((1, 2), (128, 24), mx.bfloat16, False),
    "packed, one head": ((1, 1), (128, 8), mx.float16, False),
    "unpacked": ((2, 4), (64, 10), mx.float16, False),
    "unpacked, odd": ((1, 3), (96, 5), mx.bfloat16, False),
    "unpacked, 128": ((1, 1), (128, 13), mx.float32, False),
    "largest": ((1, 1), (256, 6), mx.bfloat16, False),
    "vector": ((2, 2), (128, 6), mx.bfloat16, True),
}
QUICK = ("packed", "unpacked", "vector")


def layers():
    """The keys of LAYERS; those not in QUICK run in `make full` only."""
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.full("metal"))
        for name in LAYERS
    ]


@pytest.fixture
def stock(metal, monkeypatch):
    """mlx-lm's module with its kernels, which an import on a Mac would make."""
    make = gated_delta._make_gated_delta_kernel
    kernels = {
        "": make(),
        "_vec": make(vectorized=True),
        "_masked": make(has_mask=True),
        "_vec_masked": make(has_mask=True, vectorized=True),
        "_packed": gated_delta._make_gated_delta_packed_kernel(),
        "_xtree": gated_delta._make_gated_delta_kernel_xtree(),
    }
    for suffix, kernel in kernels.items():
        monkeypatch.setattr(gated_delta, f"_gated_delta_kernel{suffix}", kernel)
    return gated_delta


def first(case, rows):
    """The first rows of a block."""
    return {n: x if n == "state" else x[:, :rows] for n, x in case.items()}


def one_row_passes(kernel, case):
    """y and state after each row, from launches of one row each."""
    state, results = case["state"], []
    for t in range(case["k"].shape[1]):
        row = {n: x[:, t : t + 1] for n, x in case.items()} | {"state": state}
        y, state = kernel(**row)
        results.append((y, state))
    return results


def same_bits(a, b):
    kind = BITS[a.dtype]
    return a.dtype == b.dtype and mx.array_equal(a.view(kind), b.view(kind)).item()


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize(
    "kernel, number",
    [
        pytest.param(
            kernel,
            n,
            marks=() if n in (1, 2, 5) else pytest.mark.full("metal"),
            id=kernel.name,
        )
        for kernel in block.KERNELS
        for n in range(len(list(block.block_cases())))
    ],
)
def test_agrees_with_its_twin(metal, kernel, number):
    """Every output, within the bound on rounding, in several orders of threads, with
    checks of accesses and address spaces."""
    case = list(kernel.cases())[number]
    assert kernel.refusal(**case) == ""
    with emulator.using(seeds=(0, 1, 2, 3), checks=True, spaces=True):
        results = as_tuple(kernel.launch(**case))
    bounds = (kernel.tolerance(**case),)
    if kernel is block.BLOCK:
        bounds = block.block_bounds(**case)
        assert kernel.tolerance(**case) == max(bounds)
    for found, expected, bound in zip(
        results, as_tuple(kernel.twin(**case)), bounds, strict=True
    ):
        assert found.shape == expected.shape
        error = mx.abs(found.astype(mx.float32) - expected.astype(mx.float32)).max()
        assert error.item() <= bound


@pytest.mark.parametrize("contract", ("on", "off"))
@pytest.mark.parametrize("layer", layers())
def test_bits_of_mlx_lm_s_one_row_launches(stock, layer, contract):
    """Blocks of 1 to 16 rows, for every order of simd_sum: each row's y and delta, the
    last state, and the state after every row, computed from the longest tape."""
    heads, dims, dtype, vector = LAYERS[layer]
    case = block.sample(ROWS, heads, dims, dtype, vector)
    for order in ORDERS:
        with emulator.using(seeds=(2,), checks=False, contract=contract) as now:
            assert now.contract == contract
            with emulator.using(simd_order=order):
                rows = one_row_passes(stock.gated_delta_kernel, case)
                check_blocks(case, rows, range(1, ROWS + 1) if order == 0 else (16, 5))


def check_blocks(case, rows, lengths):
    """Compare blocks and tapes with one-row passes."""
    longest = block.gated_delta_block(**case)
    for n in lengths:
        y, last, delta = block.gated_delta_block(**first(case, n))
        assert same_bits(y, mx.concatenate([y for y, _ in rows[:n]], 1))
        assert same_bits(last, rows[n - 1][1])
        assert same_bits(delta, longest[2][:, :n])
    tape = (case["state"], case["k"], case["g"], longest[2])
    states = [case["state"], *(state for _, state in rows)]
    for keep, state in enumerate(states):
        assert same_bits(block.gated_delta_rewind(*tape, keep), state)


@pytest.mark.parametrize("height", (16, 13))
def test_both_orders_of_sums(stock, height):
    """A head of 128 in the order of each of mlx-lm's two kernels. The orders are equal
    only if simd_sum adds neighbours first."""
    case = block.sample(5, (1, 1), (128, height), mx.bfloat16)
    equal = []
    for order in ORDERS:
        with emulator.using(seeds=(0, 2), simd_order=order):
            tree = stock.gated_delta_kernel_xtree(**case)
            unpacked = stock.gated_delta_kernel_unpacked(**case)
            ours = [block.gated_delta_block(**case, chains=c)[:2] for c in (8, 4, 1)]
        for found, expected in zip(ours, (tree, tree, unpacked), strict=True):
            assert all(map(same_bits, found, expected))
        equal.append(all(map(same_bits, tree, unpacked)))
    assert equal == [True, False, False, False]


@pytest.mark.full("metal")
def test_more_rows_than_a_block(stock):
    case = block.sample(33, (1, 2), (128, 8), mx.bfloat16)
    with emulator.using(seeds=(0,), checks=False):
        expected = stock.gated_delta_kernel(**case)
        found = block.gated_delta_block(**case)
    assert all(map(same_bits, found[:2], expected))


def test_rows_may_be_given_as_an_array_and_batches_stay_apart(metal):
    case = block.sample(4, (1, 2), (64, 12), mx.bfloat16, batch=3)
    with emulator.using(seeds=(0, 1, 2), checks=False):
        delta = block.gated_delta_block(**case)[2]
        tape = (case["state"], case["k"], case["g"], delta)
        for keep in range(5):
            found = block.gated_delta_rewind(*tape, mx.array(keep))
            assert same_bits(found, block.gated_delta_rewind(*tape, keep))
            alone = block.gated_delta_rewind(*(x[1:2] for x in tape), keep)
            assert same_bits(alone, found[1:2])
        beyond = block.gated_delta_rewind(*tape, 9)
    assert same_bits(beyond, found)


def test_the_twin_computes_the_rule():
    """y and state against MLX's operation; delta by the states computed from it."""
    case = block.sample(6, (2, 4), (64, 12))
    names = ("q", "k", "v", "g", "beta", "state")
    y, last = mx.fast.gated_delta_update(*(case[name] for name in names))
    found = block.block_twin(**case)
    assert mx.abs(found[0] - y).max().item() < 1e-6
    assert mx.abs(found[1] - last).max().item() < 1e-6
    tape = {"state": case["state"], "k": case["k"], "g": case["g"], "delta": found[2]}
    for keep in range(7):
        wanted = block.block_twin(**first(case, keep))[1] if keep else case["state"]
        assert mx.abs(block.rewind_twin(**tape, keep=keep) - wanted).max().item() < 1e-6


@pytest.mark.parametrize(
    "changes, why",
    [
        (lambda c: {"state": c["state"].astype(mx.bfloat16)}, "state in float32"),
        (lambda c: {"state": c["state"][:, :1]}, "a state"),
        (lambda c: {"q": c["q"][:, :1]}, "q and k"),
        (lambda c: {"v": c["v"].astype(mx.int32)}, "int32"),
        (lambda c: {"k": c["k"].astype(mx.int32)}, "int32"),
        (lambda c: {"q": c["q"][..., :40], "k": c["k"][..., :40]}, "heads of 40"),
        (lambda c: {"g": c["g"][:, :1]}, "gates"),
        (lambda c: {"beta": c["beta"][..., :1]}, "beta"),
        (lambda c: {"v": c["v"][0]}, "beta"),
        (lambda c: {n: c[n][:, :0] for n in ("q", "k", "v", "g", "beta")}, "one row"),
        (lambda c: {n: c[n][:, :, :2] for n in ("q", "k")}, "share 2 key heads"),
    ],
)
def test_cases_that_are_not_supported(changes, why):
    case = block.sample(2, (3, 3), (64, 8))
    assert block.block_refusal(**case) == ""
    assert why in block.block_refusal(**case | changes(case))


def test_a_rewind_needs_a_single_number_of_rows():
    case = next(block.rewind_cases())
    assert block.rewind_refusal(**case) == ""
    several = case | {"keep": mx.array([1, 2])}
    assert "single number" in block.rewind_refusal(**several)


def test_a_sample_like_another():
    case = block.sample(2, (1, 3), (64, 10), mx.float16, vector=True, batch=2)
    longer = block.sample_like(case, 5)
    assert all(longer[n].dtype == x.dtype for n, x in case.items())
    assert first(longer, 2).keys() == case.keys()
    assert all(first(longer, 2)[n].shape == x.shape for n, x in case.items())
