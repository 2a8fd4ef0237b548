"""Operations of a model that kernels can run, and requests for them.

Owns `Operation`, which joins candidate kernels with MLX's stock operation, and
`Request`, the calls of one shape. Does not know which kernel is chosen; see
selection.py and dispatch.py.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .kernel import MAX_ROWS, Case, Kernel

# Numbers of rows that are measured. A verdict holds for fewer rows too, down to the
# next smaller number.
MEASURED_ROWS = (2, 4, 8, MAX_ROWS)
# The share of the stock operation's time that a kernel must save to be worth its risk.
MIN_SAVING = 0.05


def whole_result(case: Case) -> Case:
    """The default `tail`: the case itself."""
    return case


def single_variant(case: Case) -> list[Case]:
    """The default `variants`: the case alone."""
    return [case]


def single_code(case: Case, rows: int) -> Hashable:
    """The default `code`: the same for every number of rows."""
    return None


@dataclass(frozen=True)
class Operation:
    """One kind of call, and the kernels that can run it.

    Args:
        name: For example "quantized matmul".
        kernels: The candidates.
        exact: The candidate that computes each row independently of the others.
        stock: Runs a case as MLX does.
        sample: sample(case, rows) makes a random case like `case` with `rows` rows.
        row_alone: row_alone(case, row) is the case that computes one row of a block
            without the rows that do not belong to it.
        tail: Makes a smaller case whose result is the last part of the case's result.
            The twin runs it where the whole would need too much memory.
        min_saving: The share of the stock operation's time that a kernel must save.
        companions: Kernels that read the results of `kernels`. If one of them is
            wrong, none of `kernels` runs.
        variants: Cases of the same shape that a kernel runs by different code, the
            given case first. A kernel must be correct on each.
        code: code(case, rows) differs for two numbers of rows if kernels run them by
            differently compiled code.
    """

    name: str
    kernels: tuple[Kernel, ...]
    exact: Kernel
    stock: Callable[..., Any]
    sample: Callable[[Case, int], Case]
    row_alone: Callable[[Case, int], Case]
    tail: Callable[[Case], Case] = whole_result
    min_saving: float = MIN_SAVING
    companions: tuple[Kernel, ...] = ()
    variants: Callable[[Case], list[Case]] = single_variant
    code: Callable[[Case, int], Hashable] = single_code


@dataclass(frozen=True)
class Request:
    """Calls of one operation and shape, for which a kernel is to be chosen.

    Args:
        operation: The kind of call.
        shape: Everything besides the rows that a verdict depends on: a tuple, whose
            `str` is its text in a file of verdicts.
        case: One of the calls.
        others: Calls of other layers, with weights of their own.
    """

    operation: Operation
    shape: tuple
    case: Case
    others: tuple[Case, ...] = ()

    def verdict_key(self, rows: int) -> str:
        """The text under which the verdict for these calls is stored."""
        return f"{self.operation.name} {self.shape} rows {rows}"

    def samples(self, rows: int) -> list[Case]:
        """Random cases to judge before a verdict for `rows` rows, those of `rows` rows
        first: every variant of all code that runs the numbers of rows that the verdict
        holds for."""
        covered = range(rows, fewer_measured(rows), -1)
        return [c for n in self.rows_by_code(covered) for c in self._variants(n)]

    def exact_samples(self) -> list[Case]:
        """Random cases of one row and of the most rows, and of all other code."""
        ends = [1, MAX_ROWS]
        others = self.rows_by_code([*ends, *range(MAX_ROWS - 1, 1, -1)])
        return [c for n in dict.fromkeys(ends + others) for c in self._variants(n)]

    def rows_by_code(self, numbers: Iterable[int]) -> list[int]:
        """Of several numbers of rows, the first that each code runs."""
        first: dict[Hashable, int] = {}
        for rows in numbers:
            first.setdefault(self.operation.code(self.case, rows), rows)
        return list(first.values())

    def _variants(self, rows):
        return self.operation.variants(self.operation.sample(self.case, rows))

    def race_cases(self, rows: int, most_bytes: int) -> list[Case]:
        """Random cases with `rows` rows and the weights of several layers, the first
        one's in any case and others' up to this number of bytes in all."""
        cases, spent = [], 0
        for call in (self.case, *self.others):
            case = self.operation.sample(call, rows)
            spent += case_bytes(case)
            if cases and spent > most_bytes:
                break
            cases.append(case)
        return cases


def fewer_measured(rows: int) -> int:
    """The next smaller number of rows that has a verdict of its own; 1 if none has."""
    return max((n for n in MEASURED_ROWS if n < rows), default=1)


def case_bytes(case: Case) -> int:
    """Bytes of the arrays of a case."""
    return sum(a.nbytes for a in case.values() if isinstance(a, mx.array))
