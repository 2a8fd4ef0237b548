"""The check of exact kernels at load: every code, with progress, and what fails."""

from dataclasses import replace

import pytest

from dflash_mlx.errors import UnsupportedError
from dflash_mlx.metal.operation import Request
from dflash_mlx.tuning.kernels import check_kernels
from tests.metal.doubling import SHAPE, case, double, doubling, operation, raising

HANG = "[METAL] Command buffer execution failed: Caused GPU Hang Error (00000003)"


def request(kernel, code=lambda case, rows: None):
    return Request(replace(operation(kernel), code=code), SHAPE, case(2))


def test_every_code_of_an_exact_kernel_is_checked_with_progress():
    rows, steps = [], []

    def launch(x):
        rows.append(x.shape[1])
        return double(x)

    by_pairs = request(doubling(launch=launch), lambda case, rows: rows // 6)
    check_kernels([by_pairs, request(doubling())], lambda *step: steps.append(step))
    assert rows == [1, 16, 11] and {n // 6 for n in rows} == {0, 1, 2}
    assert steps == [(0, 2, "doubling"), (1, 2, "doubling")]


@pytest.mark.parametrize(
    "kernel, why",
    [
        (doubling(launch=lambda x: 3 * x), "is off by 1"),
        (doubling(launch=raising(RuntimeError(HANG))), "does not run: .*GPU Hang"),
    ],
)
def test_a_kernel_that_is_wrong_or_hangs_is_refused_with_a_sentence(kernel, why):
    with pytest.raises(UnsupportedError, match=f"kernel is wrong here: it {why}"):
        check_kernels([request(kernel)])


def test_what_an_exact_kernel_does_not_support_is_left_to_mlx():
    check_kernels([request(doubling(refusal=lambda x: "is odd", launch=None))])
