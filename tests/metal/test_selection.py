"""The choice of a kernel: candidates that are right, wrong, slow or broken."""

from dataclasses import replace

import mlx.core as mx
import pytest

from dflash_mlx.metal.operation import Request
from dflash_mlx.metal.selection import choose_kernel, find_fault
from dflash_mlx.metal.verdicts import STOCK
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
