"""The checks of `dflash-mlx kernels --check`: every kernel on this machine's GPU.

Owns the checks, which test on the GPU what the proofs on the emulator assume about it.
Does not print; see terminal/kernels.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx

from . import KERNELS
from .delta_rule import DELTA
from .gated_delta_block import BLOCK, REWIND
from .kernel import KERNEL_ERRORS, Case, Kernel, error_summary
from .layers import OPERATIONS
from .operation import Operation
from .selection import as_list, find_fault

SAME_BITS_ALONE = "gives a row its bits whatever the block"


@dataclass(frozen=True)
class Finding:
    """The result of one check of one kernel.

    Args:
        kernel: The kernel's name.
        question: What was checked, as a predicate.
        cases: The number of cases.
        answer: "yes", or what is wrong.
        right: Whether the kernel may run.
    """

    kernel: str
    question: str
    cases: int
    answer: str
    right: bool


def check() -> Iterator[Finding]:
    """Run all checks of all kernels."""
    for kernel in KERNELS.values():
        yield run_check(kernel, "agrees with its twin", partial(find_fault, kernel))
        yield run_check(
            kernel, "gives the same bits twice", partial(difference_of_launches, kernel)
        )
    for operation in OPERATIONS:
        kernel = operation.exact
        yield run_check(kernel, SAME_BITS_ALONE, partial(row_dependence, operation))
        finding = run_check(
            kernel, "rounds as MLX does", partial(difference_from_mlx, operation)
        )
        # --exact does not depend on it, because it runs single rows by the kernel too.
        yield replace(finding, right=True)
    yield run_check(BLOCK, SAME_BITS_ALONE, tape_fault)


def run_check(kernel: Kernel, question: str, fault: Callable[[Case], str]) -> Finding:
    """Check all cases of a kernel.

    Args:
        kernel: The kernel.
        question: What is checked.
        fault: Returns what is wrong with one case; "" if nothing is.
    """
    answers = [fault_or_error(fault, case) for case in kernel.cases()]
    wrong = [answer for answer in answers if answer]
    answer = f"no for {len(wrong)}: {wrong[0]}" if wrong else "yes"
    return Finding(kernel.name, question, len(answers), answer, not wrong)


def fault_or_error(fault: Callable[[Case], str], case: Case) -> str:
    """The fault of one case; a kernel that does not run has one too."""
    try:
        return fault(case)
    except KERNEL_ERRORS as error:
        return f"does not run: {error_summary(error)}"


def difference_of_launches(kernel: Kernel, case: Case) -> str:
    """Compare two launches of the same case."""
    first, second = (as_list(kernel.launch(**case)) for _ in range(2))
    same = all(map(equal_bits, first, second))
    return "" if same else "two launches differ"


def row_dependence(operation: Operation, case: Case) -> str:
    """Compare each row of a block with the same row alone."""
    launch = operation.exact.launch
    block = launch(**case)
    rows = block_rows(case)
    for row in range(rows):
        alone = launch(**operation.row_alone(case, row))
        if not equal_bits(block[..., row : row + 1, :], alone):
            return f"row {row} of {rows} has other bits alone"
    return ""


def difference_from_mlx(operation: Operation, case: Case) -> str:
    """Compare the first row alone with MLX's result for it."""
    case = operation.row_alone(case, 0)
    ours, mlx = operation.exact.launch(**case), operation.stock(**case)
    return "" if equal_bits(ours, mlx) else "MLX gives a single row other bits"


def tape_fault(case: Case) -> str:
    """Compare a block's rows, and the states computed from its tape, with the results
    of shorter blocks."""
    y, _, delta = BLOCK.launch(**case)
    tape = {"state": case["state"], "k": case["k"], "g": case["g"], "delta": delta}
    for keep in range(1, case["k"].shape[1] + 1):
        shorter, state, _ = BLOCK.launch(**DELTA.row_alone(case, keep - 1))
        if not equal_bits(shorter, y[:, :keep]):
            return f"row {keep - 1} depends on the rows after it"
        if not equal_bits(state, REWIND.launch(**tape, keep=keep)):
            return f"the state after {keep} rows has other bits"
    return ""


def block_rows(case: Case) -> int:
    """The number of rows of a case's block."""
    return case["q" if "q" in case else "x"].shape[-2]


def equal_bits(a: mx.array, b: mx.array) -> bool:
    """Whether two arrays are equal; NaN equals NaN."""
    return mx.array_equal(a, b, equal_nan=True).item()
