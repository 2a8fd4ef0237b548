"""The table that says which kernel runs a call: verdicts, modes, and failed kernels.

Owns the table that layers look up at every call. Knows no layer and no kernel's
arguments: the layers make the calls, selection.py measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import OptionError
from .kernel import (
    KERNEL_ERRORS,
    MAX_ROWS,
    Case,
    Kernel,
    error_summary,
    is_device_failure,
)
from .operation import MEASURED_ROWS, Operation, Request, fewer_measured
from .selection import CALLS_PER_HEAT, choose_kernel
from .verdicts import STOCK, Verdict, Verdicts

MODES = ("auto", "off", "exact")
# report(done, total, what): a trial of an operation begins, after `done` of `total`.
Report = Callable[[int, int, str], None]
NOT_MEASURED = Verdict(STOCK, "not measured")


def check_mode(mode: str) -> None:
    """Raise OptionError unless `mode` is one of MODES."""
    if mode not in MODES:
        raise OptionError(f"--kernels must be {', '.join(MODES)}, but is {mode!r}.")


class Dispatch:
    """The kernels of one loaded model.

    Args:
        exact: Run every call of at most MAX_ROWS rows by a kernel that computes each
            row independently of the others; nothing is raced.
        verdicts: Where verdicts are stored; this user's file by default.
        notice: Called with one line of text that a user should read.

    Attributes:
        dropped: The kernels that no longer run in this session, with the reason.
        stopped: Why nothing is measured any more in this session, in one item; empty
            if something may be.
        inexact_reason: Why rows can depend on their block; "" if they cannot.
    """

    def __init__(
        self,
        exact: bool = False,
        verdicts: Verdicts | None = None,
        notice: Callable[[str], None] = lambda line: None,
    ):
        self.exact = exact
        self.verdicts = verdicts or Verdicts.of_this_machine(notice)
        self.dropped: dict[str, str] = {}
        self.stopped: list[str] = []
        self.inexact_reason: str = ""
        self._notice, self._noticed = notice, set()
        self._pair_is_exact = exact
        # By operation, shape and rows.
        self._chosen: dict[tuple[str, tuple, int], Kernel | None] = {}
        self._recorded: dict[tuple, tuple[Operation, list[Case]]] | None = None

    def for_drafter(self) -> Dispatch:
        """A dispatch for the drafter, which need not be exact. A kernel that fails in
        one of the two is dropped from both, and both stop measuring together."""
        other = Dispatch(False, self.verdicts, self._notice)
        other.dropped, other._noticed = self.dropped, self._noticed
        other.stopped = self.stopped
        other._pair_is_exact = self._pair_is_exact
        return other

    @property
    def in_service(self) -> list[str]:
        """Names of the kernels that run at least one shape."""
        names = {kernel.name for kernel in self._chosen.values() if kernel is not None}
        return sorted(names - self.dropped.keys())

    def accepts(self, rows: int) -> bool:
        """Whether a kernel may run a call with `rows` rows, whatever its shape. Layers
        test this first, because it is cheaper than to collect the shape."""
        if rows == 1:
            return self.exact or self._recorded is not None
        return rows <= MAX_ROWS

    def call(self, operation: Operation, shape: tuple, rows: int, case: Case) -> Any:
        """Run a call by its kernel.

        Args:
            operation: The kind of call.
            shape: See Request.
            rows: Rows of the block.
            case: The arguments.

        Returns:
            The kernel's result; None if the stock operation is to run.
        """
        if not self.accepts(rows):
            return None
        if self._recorded is not None:
            self._record(operation, shape, case)
        key = operation.name, shape, rows
        if self.exact and key not in self._chosen:
            self._chosen[key] = self._exact_kernel(operation, case)
        kernel = self._chosen.get(key)
        return None if kernel is None else self.launch(kernel, case)

    def _record(self, operation, shape, case):
        """Keep a call, and as many of other layers as a race needs."""
        _, cases = self._recorded.setdefault((operation.name, shape), (operation, []))
        if len(cases) < CALLS_PER_HEAT:
            cases.append(case)

    def launch(self, kernel: Kernel, case: Case) -> Any:
        """Launch a kernel. If that fails, drop the kernel and return None."""
        if kernel.name in self.dropped:
            return None
        try:
            return kernel.launch(**case)
        except KERNEL_ERRORS as error:
            self.drop(kernel.name, error_summary(error))
            return None

    def _exact_kernel(self, operation, case):
        kernel = operation.exact
        dropped = self.dropped.get(kernel.name)
        why = f"is off: {dropped}" if dropped else kernel.refusal(**case)
        if why:
            self._notify_once(f"Rows may depend on their block: {kernel.name} {why}.")
        return None if why else kernel

    def _notify_once(self, line):
        if line not in self._noticed:
            self._noticed.add(line)
            self._notice(line)

    def drop(self, name: str, why: str) -> None:
        """Do not run a kernel again until the program ends, and notify the user."""
        if name not in self.dropped:
            self.dropped[name] = why
            lost = "; rows may now depend on their block" if self._pair_is_exact else ""
            self._notify_once(f"The {name} kernel is off for this session{lost}: {why}")
        for key, kernel in self._chosen.items():
            if kernel is not None and kernel.name == name:
                self._chosen[key] = None

    def drop_all(self, why: str) -> bool:
        """Drop every kernel in service, because it is unknown which of them failed.

        Returns:
            Whether there was any.
        """
        names = self.in_service
        for name in names:
            self.drop(name, why)
        return bool(names)

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """Record the calls that are made inside the block, one request per shape.

        The list is filled when the block ends.
        """
        self._recorded, requests = {}, []
        try:
            yield requests
        finally:
            requests += [
                Request(operation, shape, cases[0], tuple(cases[1:]))
                for (_, shape), (operation, cases) in self._recorded.items()
            ]
            self._recorded = None

    def choose_kernels(
        self,
        requests: Iterable[Request],
        again: bool = False,
        report: Report = lambda done, total, what: None,
    ) -> None:
        """Choose a kernel or the stock operation for each request.

        Args:
            requests: From `recording`.
            again: Measure even where there is a stored verdict.
            report: Called before each trial.
        """
        trials = [(request, n) for request in requests for n in MEASURED_ROWS]
        known = self.verdicts.all()
        unknown = {
            key: (request, n)
            for request, n in trials
            if (key := request.verdict_key(n)) not in known
            or again
            or not known[key].final
        }
        if unknown and not self.stopped:
            self._announce([request for request, _ in unknown.values()])
        for done, (key, trial) in enumerate(unknown.items()):
            if self.stopped:
                known.setdefault(key, NOT_MEASURED)
                continue
            report(done, len(unknown), trial[0].operation.name)
            known[key] = self._measure(key, *trial, known.get(key))
        for request, n in trials:
            self._apply(request, n, known[request.verdict_key(n)])

    def _announce(self, requests):
        names = dict.fromkeys(request.operation.name for request in requests)
        self._notify_once(
            f"Measuring kernels once on this chip: {len(requests)} trials of "
            f"{', '.join(names)}, about a second each. --kernels off skips them."
        )

    def _measure(self, key, request, rows, before):
        """Measure a shape and store the verdict.

        Args:
            key: Of the verdict.
            request, rows: As in choose_kernel.
            before: The stored verdict, or None.
        """
        lost = (before.lost if before else 0) + 1
        # This verdict remains if the program dies during the measurement.
        died = Verdict(STOCK, "the program ended while it was measured", lost=lost)
        self.verdicts.put(key, died)
        try:
            verdict = choose_kernel(request, rows)
        except KERNEL_ERRORS as error:
            why = error_summary(error)
            if is_device_failure(error):
                why = f"the GPU failed while it was measured: {why}"
                verdict = Verdict(STOCK, why, lost=lost)
                self._stop(why)
            else:
                verdict = Verdict(STOCK, f"could not be measured: {why}")
        except BaseException:  # Ctrl-C is not the kernel's fault
            if before:
                self.verdicts.put(key, before)
            else:
                self.verdicts.forget(key)
            raise
        self.verdicts.put(key, verdict)
        return verdict

    def _stop(self, why):
        """Measure nothing more: what fails now may fail because of this."""
        self.stopped.append(why)
        self._notify_once(
            f"No more kernels are measured in this session, because {why}. MLX's "
            "operations run in their place."
        )

    def _apply(self, request, rows, verdict):
        """Use a verdict for `rows` rows, and for fewer down to the next verdict."""
        kernels = {kernel.name: kernel for kernel in request.operation.kernels}
        kernel = kernels.get(verdict.choice)
        if verdict.choice in self.dropped:
            kernel = None
        for n in range(fewer_measured(rows) + 1, rows + 1):
            self._chosen[request.operation.name, request.shape, n] = kernel
