"""The table that says which kernel runs a call: verdicts, modes, and failed kernels.

Owns the table that layers look up at every call. Knows no layer and no kernel's
arguments: the layers make the calls, selection.py measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import OptionError
from .kernel import KERNEL_ERRORS, MAX_ROWS, Case, Kernel, error_summary
from .operation import MEASURED_ROWS, Operation, Request
from .selection import choose_kernel
from .verdicts import STOCK, Verdict, Verdicts

MODES = ("auto", "off", "exact")


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
        inexact_reason: Why rows can depend on their block; "" if they cannot.
    """

    def __init__(
        self,
        exact: bool = False,
        verdicts: Verdicts | None = None,
        notice: Callable[[str], None] = lambda line: None,
    ):
        self.exact = exact
        self.verdicts = verdicts or Verdicts.of_this_machine()
        self.dropped: dict[str, str] = {}
        self.inexact_reason: str = ""
        self._notice, self._noticed = notice, set()
        self._pair_is_exact = exact
        # By operation, shape and rows.
        self._chosen: dict[tuple[str, tuple, int], Kernel | None] = {}
        self._recorded: dict[tuple[str, tuple], Request] | None = None

    def for_drafter(self) -> Dispatch:
        """A dispatch for the drafter, which need not be exact. A kernel that fails in
        one of the two is dropped from both."""
        other = Dispatch(False, self.verdicts, self._notice)
        other.dropped, other._noticed = self.dropped, self._noticed
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
            request = Request(operation, shape, case)
            self._recorded.setdefault((operation.name, shape), request)
        key = operation.name, shape, rows
        if self.exact and key not in self._chosen:
            self._chosen[key] = self._exact_kernel(operation, case)
        kernel = self._chosen.get(key)
        return None if kernel is None else self.launch(kernel, case)

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
        """Record the calls that are made inside the block, each shape once.

        The list is filled when the block ends.
        """
        self._recorded, requests = {}, []
        try:
            yield requests
        finally:
            requests += self._recorded.values()
            self._recorded = None

    def choose_kernels(self, requests: Iterable[Request], again: bool = False) -> None:
        """Choose a kernel or the stock operation for each request.

        Args:
            requests: From `recording`.
            again: Measure even where there is a stored verdict.
        """
        trials = [(request, n) for request in requests for n in MEASURED_ROWS]
        known = {} if again else self.verdicts.all()
        unknown = {
            key: (request, n)
            for request, n in trials
            if (key := request.verdict_key(n)) not in known
        }
        if unknown:
            count = len(unknown)
            self._notify_once(f"Measuring kernels once on this chip: {count} trials.")
        for key, trial in unknown.items():
            known[key] = self._measure(key, *trial)
        for request, n in trials:
            self._apply(request, n, known[request.verdict_key(n)])

    def _measure(self, key, request, rows):
        """Measure a shape and store the verdict."""
        # This verdict remains if the program dies during the measurement.
        died = Verdict(STOCK, "the program ended while it was measured")
        self.verdicts.put(key, died)
        try:
            verdict = choose_kernel(request, rows)
        except KERNEL_ERRORS as error:
            verdict = Verdict(STOCK, f"could not be measured: {error_summary(error)}")
        except BaseException:  # Ctrl-C is not the kernel's fault
            self.verdicts.forget(key)
            raise
        self.verdicts.put(key, verdict)
        return verdict

    def _apply(self, request, rows, verdict):
        """Use a verdict for `rows` rows, and for fewer down to the next verdict."""
        kernels = {kernel.name: kernel for kernel in request.operation.kernels}
        kernel = kernels.get(verdict.choice)
        if verdict.choice in self.dropped:
            kernel = None
        fewer = max((n for n in MEASURED_ROWS if n < rows), default=1)
        for n in range(fewer + 1, rows + 1):
            self._chosen[request.operation.name, request.shape, n] = kernel
