"""The choice of a kernel: candidates that are right, wrong, slow or broken."""

import io
from dataclasses import replace
from itertools import product

import mlx.core as mx
import pytest

from dflash_mlx.bench.shapes import named_shapes
from dflash_mlx.metal import KERNELS, block_matmul
from dflash_mlx.metal.attention import ATTENTION
from dflash_mlx.metal.block_attention import DTYPES, HEAD_DIMS
from dflash_mlx.metal.kernel import MAX_ROWS
from dflash_mlx.metal.linear import MATMUL, QUANTIZED
from dflash_mlx.metal.operation import MEASURED_ROWS, Request
from dflash_mlx.metal.selection import (
    CALLS_PER_HEAT,
    as_list,
    chain,
    choose_kernel,
    find_fault,
)
from dflash_mlx.metal.verdicts import STOCK
from tests import emulator
from tests.metal.doubling import (
    SHAPE,
    case,
    double,
    doubling,
    operation,
    raising,
    request,
)

COMPILER = "Unable to build metal library from source\na:3:1: error: no\nb"


class Clock:
    """A clock that advances by the cost of what was launched."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time

    def costly(self, seconds, run=double):
        """A launch that takes this time."""

        def launch(x):
            self.time += seconds
            return run(x)

        return launch


@pytest.mark.parametrize(
    "kernel, why",
    [
        (doubling(), ""),
        (doubling(launch=lambda x: 2 * x + 1e-3), "off by 0.001"),
        (doubling(launch=lambda x: x * float("nan")), "off by inf"),
        (doubling(refusal=lambda x: "needs another shape"), "needs another shape"),
        (doubling(launch=raising(RuntimeError("\nno memory"))), "run: no memory"),
        (doubling(launch=raising(RuntimeError(COMPILER))), "run: a:3:1: error: no"),
    ],
)
def test_a_kernel_must_agree_with_its_twin(kernel, why):
    found = find_fault(kernel, case(4))
    assert why in found and bool(why) == bool(found)


def test_a_tail_is_compared_in_place_of_the_whole():
    numbers = {"x": mx.arange(16.0)}
    assert find_fault(doubling(), numbers, lambda case: {"x": case["x"][12:]}) == ""
    assert find_fault(doubling(), numbers, lambda case: {"x": case["x"][:4]})


@pytest.mark.parametrize(
    "ours, stock, choice",
    [(1.0, 2.0, "doubling"), (2.0, 1.0, STOCK), (0.97, 1.0, STOCK)],
)
def test_the_faster_one_is_chosen_by_a_margin(ours, stock, choice):
    clock = Clock()
    calls = request(doubling(launch=clock.costly(ours)))
    raced = replace(calls.operation, stock=clock.costly(stock))
    verdict = choose_kernel(replace(calls, operation=raced), 4, clock)
    assert verdict.choice == choice
    assert verdict.microseconds == {"doubling": 1e6 * ours, STOCK: 1e6 * stock}


def test_a_wrong_kernel_is_not_raced():
    clock = Clock()
    fast = doubling("fast", clock.costly(0.1, lambda x: 3 * x))
    right = doubling("right", clock.costly(0.5))
    calls = request(fast, right)
    raced = replace(calls.operation, stock=clock.costly(1.0))
    verdict = choose_kernel(replace(calls, operation=raced), 4, clock)
    assert verdict.choice == "right" and "fast: is off by" in verdict.why
    assert "fast" not in verdict.microseconds


def test_a_kernel_must_be_right_on_every_variant_of_a_shape():
    def launch(x):
        return 2 * x + (x.min() < 0)

    two_variants = replace(
        operation(doubling(launch=launch)), variants=lambda c: [c, {"x": -c["x"]}]
    )
    verdict = choose_kernel(Request(two_variants, SHAPE, case(2)), 4)
    assert verdict.choice == STOCK and "off by 1" in verdict.why


def test_a_companion_must_be_right_too():
    wrong = doubling("wrong", lambda x: 3 * x)
    with_companion = replace(operation(doubling()), companions=(wrong,))
    verdict = choose_kernel(Request(with_companion, SHAPE, case(2)), 2)
    assert verdict.choice == STOCK and "wrong: is off by 1" in verdict.why


def test_raced_calls_wait_for_each_other():
    """MLX runs independent calls at the same time, as no pass does."""
    cases = [{"x": mx.ones((1, 4, 8))} for _ in range(3)]
    last = chain(lambda x: mx.erf(x), cases)
    graph = io.StringIO()
    mx.export_to_dot(graph, *last)
    assert graph.getvalue().count('"Erf"') == CALLS_PER_HEAT


def test_a_raced_call_computes_what_it_would_alone():
    cases = [{"x": mx.full((1, 2, 8), n)} for n in (1.0, 2.0, 3.0)]
    (last,) = chain(double, cases)
    assert last.tolist() == double(**cases[(CALLS_PER_HEAT - 1) % 3]).tolist()


def weights_of_layers(layers, outputs):
    """Recorded calls of several layers, each with weights of its own."""
    first, *others = [
        {"x": mx.zeros((1, 2, 8)), "weight": mx.full((outputs, 8), float(n))}
        for n in range(layers)
    ]
    return Request(MATMUL, (outputs, 8), first, tuple(others))


def test_raced_calls_read_the_weights_of_several_layers_by_turns():
    """One layer's would lie in the system's cache."""
    cases = weights_of_layers(4, 3).race_cases(2, most_bytes=10**6)
    results = [(case["weight"] + case["x"].sum() * 0)[0, 0].item() for case in cases]
    assert results == [0.0, 1.0, 2.0, 3.0]
    assert all(case["x"].shape == (1, 2, 8) for case in cases)
    size = 4 * (2 * 8 + 3 * 8)
    assert len(weights_of_layers(4, 3).race_cases(2, most_bytes=2 * size)) == 2
    assert len(weights_of_layers(4, 3).race_cases(2, most_bytes=1)) == 1


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_twins_multiply_on_the_cpu(monkeypatch, kernel):
    """The GPU of an M5 rounds the factors of float32 products to TF32."""
    case, spied, graph = next(kernel.cases()), [], io.StringIO()

    def spy(function):
        def call(*arguments, stream=None, **options):
            spied.append(stream)
            return function(*arguments, stream=stream, **options)

        return call

    attention = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(mx, "matmul", spy(mx.matmul))
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", spy(attention))
    mx.export_to_dot(graph, *as_list(kernel.twin(**case)))
    products = graph.getvalue().count('"Matmul"')
    # A product by the operator @ would not be spied; attention has two.
    assert len(spied) == products / (2 if "attention" in kernel.name else 1)
    kernel.tolerance(**case)
    assert set(spied) <= {mx.cpu}


@pytest.mark.slow
@pytest.mark.parametrize("operation", (MATMUL, QUANTIZED, ATTENTION))
def test_real_kernels_are_judged_and_raced(metal, monkeypatch, operation):
    """On the emulator, whose time does not count."""
    monkeypatch.setattr("dflash_mlx.metal.attention.CONTEXT", 40)
    monkeypatch.setattr("dflash_mlx.metal.selection.HEATS", 1)
    x, weight = mx.zeros((1, 2, 64)), mx.random.normal((16, 64), key=mx.random.key(1))
    calls = {
        "matmul": Request(MATMUL, (), {"x": x, "weight": weight}),
        "quantized matmul": Request(QUANTIZED, (), {"x": x} | packed(weight)),
        "attention": attention_calls(4, 32, mx.float32),
    }[operation.name]
    times = iter(range(10**6))
    with emulator.using(seeds=(0,), checks=False):
        verdict = choose_kernel(calls, 4, lambda: float(next(times)))
    kernels = {kernel.name for kernel in operation.kernels}
    assert verdict.microseconds.keys() == kernels | {STOCK}, verdict.why
    assert verdict.choice == STOCK and "100%" in verdict.why  # all took as long


HANG = "[METAL] Command buffer execution failed: Caused GPU Hang Error (00000003)"


@pytest.mark.parametrize("message", (HANG, "[malloc] Unable to allocate 9 bytes."))
def test_a_failure_of_the_gpu_is_not_taken_for_the_kernels(message):
    kernel = doubling(launch=raising(RuntimeError(message)))
    with pytest.raises(RuntimeError):
        find_fault(kernel, case(4))
    with pytest.raises(RuntimeError):
        choose_kernel(request(kernel), 4)


def judged(calls):
    """The codes of all cases that are judged before verdicts on a shape."""
    rows = {n: calls.samples(n) for n in MEASURED_ROWS}
    found = {rows_of(case) for cases in rows.values() for case in cases}
    assert all(rows_of(cases[0]) == n for n, cases in rows.items())  # it is raced
    return {calls.operation.code(calls.case, n) for n in found}


def packed(weight):
    """The arguments of a quantized product, besides x."""
    arrays = zip(("weight", "scales", "biases"), mx.quantize(weight), strict=True)
    return dict(arrays, group_size=64, bits=4)


def rows_of(case):
    return case["q" if "q" in case else "x"].shape[-2]


def attention_calls(group, dim, dtype, kv_heads=1):
    q, k = (mx.zeros((1, n, 2, dim), dtype) for n in (group * kv_heads, kv_heads))
    case = {"q": q, "k": k, "v": k, "scale": 1.0, "mask": None, "sinks": None}
    return Request(ATTENTION, (group, dim), case | {"first": 0})


LAYOUTS = {
    (shape.target.num_attention_heads // shape.target.num_key_value_heads)
    for shape in named_shapes().values()
} | {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32}


@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_every_code_of_attention_is_judged_before_it_runs(dim, monkeypatch):
    monkeypatch.setattr("dflash_mlx.metal.attention.CONTEXT", 32)
    for group, dtype in product(sorted(LAYOUTS), DTYPES):
        calls = attention_calls(group, dim, dtype)
        code = calls.operation.code
        run = {code(calls.case, n) for n in range(2, MAX_ROWS + 1)}
        assert run <= judged(calls), (group, dtype)
        alone = {code(calls.case, n) for n in range(1, MAX_ROWS + 1)}
        exact = {code(calls.case, rows_of(case)) for case in calls.exact_samples()}
        assert alone == exact


def test_the_codes_of_attention_are_those_that_are_compiled():
    """Qwen3-8B in bfloat16: rows 5 and 6 need three tiles, rows 9 to 12 need six."""
    calls = attention_calls(4, 128, mx.bfloat16)
    tiles = [calls.operation.code(calls.case, n)[0] for n in range(1, MAX_ROWS + 1)]
    assert tiles == [1, 1, 2, 2, 3, 3, 4, 4, 6, 6, 6, 6, 8, 8, 8, 8]
    other_size = attention_calls(4, 112, mx.bfloat16)
    assert ATTENTION.code(other_size.case, 5) == (0, 0)  # no kernel runs it


def test_every_code_of_matmuls_is_judged_before_it_runs():
    x, weight = mx.zeros((1, 2, 64)), mx.zeros((8, 64))
    for matmul, more in ((MATMUL, {"weight": weight}), (QUANTIZED, packed(weight))):
        calls = Request(matmul, (), {"x": x} | more)
        codes = [matmul.code(calls.case, n) for n in range(1, MAX_ROWS + 1)]
        assert set(codes[1:]) <= judged(calls) and len(set(codes)) > 3
        exact = {rows_of(case) for case in calls.exact_samples()}
        assert {codes[n - 1] for n in exact} == set(codes) and {1, 16} <= exact
    assert block_matmul.exact_code(9) == (16, 2) and block_matmul.fast_code(8) == 1
