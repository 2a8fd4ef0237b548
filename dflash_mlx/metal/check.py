"""Questions to every kernel, answered on this machine.

Owns the report of `dflash-mlx kernels --check`: what the emulated proofs take for
granted about a GPU is asked of the GPU here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx

from . import KERNELS
from .delta_rule import DELTA
from .gate import (
    FAILURES,
    Operation,
    fault,
    first_line,
    outputs,
)
from .gated_delta_block import BLOCK, REWIND
from .kernel import Case, Kernel
from .layers import OPERATIONS


@dataclass(frozen=True)
class Finding:
    """One question's answer.

    Args:
        kernel: Who was asked.
        question: What was asked.
        cases: On how many inputs.
        answer: "yes", or what is wrong.
        right: Whether the kernel may run.
    """

    kernel: str
    question: str
    cases: int
    answer: str
    right: bool


def check() -> Iterator[Finding]:
    """Ask every kernel everything."""
    for kernel in KERNELS.values():
        yield asked(kernel, "agrees with its twin", partial(fault, kernel))
        yield asked(kernel, "gives the same bits twice", partial(twice, kernel))
    for operation in OPERATIONS:
        kernel = operation.exact
        ask = partial(invariance, operation)
        yield asked(kernel, "gives a row its bits whatever the block", ask)
        # No matter to --exact, which runs single rows by the kernel, too.
        ask = partial(mlx_bits, operation)
        yield replace(asked(kernel, "rounds as MLX does", ask), right=True)
    yield asked(BLOCK, "gives a row its bits whatever the block", rewound)


def asked(kernel: Kernel, question: str, ask: Callable[[Case], str]) -> Finding:
    """Put a question about each of a kernel's own cases."""
    answers = [answer_of(ask, case) for case in kernel.cases()]
    wrong = [answer for answer in answers if answer]
    answer = f"{len(wrong)} are not: {wrong[0]}" if wrong else "yes"
    return Finding(kernel.name, question, len(answers), answer, not wrong)


def answer_of(ask: Callable[[Case], str], case: Case) -> str:
    """An answer, a failure being one."""
    try:
        return ask(case)
    except FAILURES as error:
        return f"does not run: {first_line(error)}"


def twice(kernel: Kernel, case: Case) -> str:
    """Why two launches differ; "" if they do not."""
    pairs = zip(*(outputs(kernel.launch(**case)) for _ in range(2)), strict=True)
    return "" if all(same(a, b) for a, b in pairs) else "two launches differ"


def invariance(operation: Operation, case: Case) -> str:
    """Why a row depends on its block; "" if it does not."""
    launch = operation.exact.launch
    block = launch(**case)
    for row in range(rows_of(case)):
        if not same(block[..., row : row + 1, :], launch(**operation.alone(case, row))):
            return f"row {row} of {rows_of(case)} is not itself alone"
    return ""


def mlx_bits(operation: Operation, case: Case) -> str:
    """Why the first row has other bits than MLX gives it alone; "" if it has not."""
    alone = operation.alone(case, 0)
    ours, theirs = operation.exact.launch(**alone), operation.stock(**alone)
    return "" if same(ours, theirs) else "MLX's own single row has other bits"


def rewound(case: Case) -> str:
    """Why a block's rows, or states found again from its tape, are not those of a
    shorter block; "" if they are."""
    y, _, delta = BLOCK.launch(**case)
    tape = {"state": case["state"], "k": case["k"], "g": case["g"], "delta": delta}
    for keep in range(1, case["k"].shape[1] + 1):
        shorter, state, _ = BLOCK.launch(**DELTA.alone(case, keep - 1))
        if not same(shorter, y[:, :keep]):
            return f"row {keep - 1} depends on the rows after it"
        if not same(state, REWIND.launch(**tape, keep=keep)):
            return f"the state after {keep} rows is another one"
    return ""


def rows_of(case: Case) -> int:
    """Rows of a call's block."""
    return case["q" if "q" in case else "x"].shape[-2]


def same(a: mx.array, b: mx.array) -> bool:
    """Equal bit for bit, as numbers go."""
    return mx.array_equal(a, b, equal_nan=True).item()
