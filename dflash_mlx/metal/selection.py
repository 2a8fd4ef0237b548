"""The choice between kernels and MLX's stock operation for one shape, by measurement.

Owns the comparison with the twin and the race with the stock operation, both on the
real shape and on this machine. Knows no model; dispatch.py collects the requests.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import mlx.core as mx

from .kernel import KERNEL_ERRORS, Case, Kernel, error_summary, is_device_failure
from .operation import Request, whole_result
from .verdicts import STOCK, Verdict

HEATS, CALLS_PER_HEAT = 5, 10
# Weights and keys that the calls of a heat read by turns: more than the system's cache
# of any chip holds, so that every call reads memory as it does in a pass.
ROTATED_BYTES = 2**28


def choose_kernel(
    request: Request, rows: int, clock: Callable[[], float] = perf_counter
) -> Verdict:
    """Drop the candidates that are wrong, and race the others.

    Args:
        request: The calls.
        rows: One of MEASURED_ROWS.
        clock: Returns seconds.

    Raises:
        RuntimeError: The GPU failed; see kernel.is_device_failure.
    """
    operation = request.operation
    samples = request.samples(rows)
    for kernel in operation.companions:
        if fault := first_fault(kernel, kernel.cases()):
            return Verdict(STOCK, f"{kernel.name}: {fault}")
    correct, faults = [], []
    for kernel in operation.kernels:
        if fault := first_fault(kernel, samples, operation.tail):
            faults.append(f"{kernel.name}: {fault}")
        else:
            correct.append(kernel)
    if not correct:
        return Verdict(STOCK, "; ".join(faults) or "no kernel for it")
    runs = {kernel.name: kernel.launch for kernel in correct}
    runs[STOCK] = operation.stock
    seconds = race(runs, request.race_cases(rows, ROTATED_BYTES), clock)
    best = min((kernel.name for kernel in correct), key=seconds.get)
    share = seconds[best] / seconds[STOCK]
    why = f"{best} takes {share:.0%} of the stock operation's time"
    if share > 1 - operation.min_saving:
        best = STOCK
    times = {name: round(1e6 * value, 2) for name, value in seconds.items()}
    return Verdict(best, "; ".join([why, *faults]), times)


def first_fault(kernel, cases, tail=whole_result) -> str:
    """The first fault on `cases`; "" if there is none."""
    return next(filter(None, (find_fault(kernel, case, tail) for case in cases)), "")


def find_fault(
    kernel: Kernel, case: Case, tail: Callable[[Case], Case] = whole_result
) -> str:
    """Compare a kernel with its twin on one case.

    Args:
        kernel: The kernel.
        case: Its arguments.
        tail: See Operation; the twin runs the smaller case.

    Returns:
        Why the kernel must not run the case, as a predicate; "" if it is correct.

    Raises:
        RuntimeError: The GPU failed; see kernel.is_device_failure.
    """
    refusal = kernel.refusal(**case)
    if refusal:
        return refusal
    try:
        found = as_list(kernel.launch(**case))
        mx.eval(found)
    except KERNEL_ERRORS as error:
        if is_device_failure(error):
            raise
        return f"does not run: {error_summary(error)}"
    part = tail(case)
    expected, allowed = as_list(kernel.twin(**part)), kernel.tolerance(**part)
    error = max(map(max_difference, found, expected))
    return "" if error <= allowed else f"is off by {error:.2g} ({allowed:.2g} allowed)"


def max_difference(found: mx.array, expected: mx.array) -> float:
    """The largest difference between `expected` and the last part of `found`; infinity
    if an element is not a number."""
    found = found[tuple(slice(-n, None) for n in expected.shape)].astype(mx.float32)
    if found.size == 0:
        return 0.0
    error = mx.abs(found - expected.astype(mx.float32)).max().item()
    return error if error == error else float("inf")


def as_list(result: Any) -> list[mx.array]:
    """The arrays that a launch or a twin returned."""
    return list(result) if isinstance(result, list | tuple) else [result]


def race(
    runs: dict[str, Callable], cases: list[Case], clock: Callable[[], float]
) -> dict[str, float]:
    """Seconds per call of each run: the median of interleaved heats.

    Args:
        runs: What to time.
        cases: The arguments of the calls by turns.
        clock: Returns seconds.
    """
    mx.eval([list(case.values()) for case in cases])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for heat in range(HEATS + 1):
        for name, run in runs.items():
            start = clock()
            mx.eval(chain(run, cases))
            if heat:  # the first heat compiles
                times[name].append((clock() - start) / CALLS_PER_HEAT)
    return {name: median(values) for name, values in times.items()}


def chain(run: Callable, cases: list[Case]) -> list[mx.array]:
    """The result of the last of CALLS_PER_HEAT calls, each of which needs the result of
    the one before. Lazy.

    As in a pass, calls cannot overlap, which MLX lets independent calls do.
    """
    result = None
    for i in range(CALLS_PER_HEAT):
        case = cases[i % len(cases)]
        result = as_list(run(**(case if result is None else after(case, result[0]))))
    return result


def after(case: Case, result: mx.array) -> Case:
    """The case, computed after `result`: its first argument has one number of that, by
    0, added to it."""
    name = next(iter(case))
    number = result[(slice(1),) * result.ndim].reshape(1).astype(case[name].dtype)
    return case | {name: case[name] + 0 * number}
