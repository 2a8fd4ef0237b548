"""Whether a kernel may run calls of a shape: first right, then faster.

Owns the comparison with the plain twin and the race with the stock operation, both on
the real shape and on this machine. Knows no model; dispatch.py says what is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import mlx.core as mx

from .kernel import Case, Kernel
from .verdicts import STOCK, Verdict

# Rows that a verdict is measured at; it holds for all below, down to the next.
BUCKETS = (2, 4, 8, 16)
# A kernel must save this share of the stock operation's time to be worth its risk.
GAIN = 0.05
HEATS, CALLS = 5, 10
FAILURES = (RuntimeError, ValueError)  # what MLX raises, of its compiler or the GPU


def whole(case: Case) -> Case:
    """The case itself: its twin takes no more memory than others."""
    return case


def single(case: Case) -> list[Case]:
    """The case alone: a shape's calls are all of one form."""
    return [case]


@dataclass(frozen=True)
class Operation:
    """Calls of one kind, and what may run them.

    Args:
        name: Such as "quantized matmul".
        kernels: The candidates.
        exact: The one of them whose rows do not depend on one another.
        stock: Runs a call as MLX does.
        sample: A call like a given one, with so many rows.
        alone: The call that one row of a block makes on its own.
        tail: A smaller call that gives the last part of a call's result, where the
            twin of the whole one would take too much memory.
        gain: Share of the stock operation's time that a kernel must save.
        needs: Kernels that its kernels' results go to, right or none of them runs.
        forms: Calls of a given one's shape that a kernel runs by other code, itself
            the first; it must be right on all of them.
    """

    name: str
    kernels: tuple[Kernel, ...]
    exact: Kernel
    stock: Callable[..., Any]
    sample: Callable[[Case, int], Case]
    alone: Callable[[Case, int], Case]
    tail: Callable[[Case], Case] = whole
    gain: float = GAIN
    needs: tuple[Kernel, ...] = ()
    forms: Callable[[Case], list[Case]] = single


@dataclass(frozen=True)
class Request:
    """Calls of one shape that kernels may take over.

    Args:
        operation: Their kind.
        shape: What a verdict depends on besides the rows, in words.
        case: One of them.
    """

    operation: Operation
    shape: str
    case: Case

    def about(self, rows: int) -> str:
        """What a verdict on these calls is filed under."""
        return f"{self.operation.name} {self.shape} rows {rows}"

    def samples(self, rows: int) -> list[Case]:
        """Calls with so many random rows, of every form."""
        return self.operation.forms(self.operation.sample(self.case, rows))


def judge(
    request: Request, rows: int, clock: Callable[[], float] = perf_counter
) -> Verdict:
    """Compare and race the candidates.

    Args:
        request: The calls.
        rows: One of BUCKETS.
        clock: Seconds.
    """
    operation = request.operation
    samples = request.samples(rows)
    case = samples[0]
    for kernel in operation.needs:
        why = next(filter(None, (fault(kernel, case) for case in kernel.cases())), "")
        if why:
            return Verdict(STOCK, f"{kernel.name}: {why}")
    fit, faults = [], []
    for kernel in operation.kernels:
        found = (fault(kernel, sample, operation.tail) for sample in samples)
        why = next(filter(None, found), "")
        faults += [f"{kernel.name}: {why}"] if why else []
        fit += [] if why else [kernel]
    if not fit:
        return Verdict(STOCK, "; ".join(faults) or "no kernel for it")
    runs = {kernel.name: kernel.launch for kernel in fit} | {STOCK: operation.stock}
    seconds = race({n: partial(run, **case) for n, run in runs.items()}, clock)
    best = min((kernel.name for kernel in fit), key=seconds.get)
    share = seconds[best] / seconds[STOCK]
    why = f"{best} takes {share:.0%} of the stock operation's time"
    if share > 1 - operation.gain:
        best = STOCK
    times = {name: round(1e6 * value, 2) for name, value in seconds.items()}
    return Verdict(best, "; ".join([why, *faults]), times)


def fault(kernel: Kernel, case: Case, tail: Callable[[Case], Case] = whole) -> str:
    """Why a kernel may not run a call: "" if it agrees with its twin.

    Args:
        kernel: It.
        case: The call.
        tail: Makes a smaller call that gives the last part of the result; the twin
            runs it in place of the whole one.
    """
    refused = kernel.refuses(**case)
    if refused:
        return refused
    try:
        found = outputs(kernel.launch(**case))
        mx.eval(found)
    except FAILURES as error:
        return f"does not run: {first_line(error)}"
    part = tail(case)
    wanted, allowed = outputs(kernel.twin(**part)), kernel.tolerance(**part)
    error = max(map(distance, found, wanted))
    return "" if error <= allowed else f"is off by {error:.2g} ({allowed:.2g} allowed)"


def distance(found: mx.array, wanted: mx.array) -> float:
    """Largest difference of the last parts; infinite where something is no number."""
    found = found[tuple(slice(-n, None) for n in wanted.shape)].astype(mx.float32)
    wanted = wanted.astype(mx.float32)
    if found.size == 0:
        return 0.0
    error = mx.abs(found - wanted).max().item()
    return error if error == error else float("inf")


def outputs(result: Any) -> list[mx.array]:
    """What a launch or a twin returned, as a list."""
    return list(result) if isinstance(result, list | tuple) else [result]


def first_line(error: Exception) -> str:
    """The line of an error that says most: a compiler's first complaint, or the first
    that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    complaints = [line for line in lines if "error:" in line]
    return next(iter(complaints + lines), "no word")


def race(runs: dict[str, Callable], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of one call of each, the median of interleaved heats."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for heat in range(HEATS + 1):
        for name, run in runs.items():
            start = clock()
            mx.eval([outputs(run()) for _ in range(CALLS)])
            if heat:  # the first one compiles
                times[name].append((clock() - start) / CALLS)
    return {name: median(values) for name, values in times.items()}
