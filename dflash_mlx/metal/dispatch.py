"""Which kernel runs a call now: verdicts, switches, and kernels that failed.

Owns the table that layers ask at every call. Knows no layer and no kernel's arguments;
layers.py makes the calls, gate.py judges them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from ..errors import OptionError
from .gate import (
    BUCKETS,
    FAILURES,
    Operation,
    Request,
    first_line,
    judge,
)
from .kernel import Case, Kernel, fingerprint
from .verdicts import (
    STOCK,
    Verdict,
    Verdicts,
    default_file,
)

MODES = ("auto", "off", "exact")
MOST_ROWS = BUCKETS[-1]


def check_mode(mode: str) -> None:
    """Raise OptionError unless `mode` is one of MODES."""
    if mode not in MODES:
        raise OptionError(f"--kernels must be {', '.join(MODES)}, but is {mode!r}.")


def machine() -> str:
    """What verdicts depend on besides a shape: chip, MLX, the kernels' texts, and the
    system, which brings the compiler."""
    info, system = mx.device_info(), platform.mac_ver()[0] or "none"
    chip = f"{info['device_name']}, {info['architecture']}"
    return f"{chip}, macOS {system}, mlx {mx.__version__}, kernels {fingerprint()}"


class Dispatch:
    """The kernels of one loaded pair.

    Args:
        exact: Every call of at most MOST_ROWS rows goes to a kernel whose rows do not
            depend on one another; nothing is raced.
        verdicts: Where measured ones are kept; this user's file by default.
        notice: Told, in one line, what a user should know.

    Attributes:
        dropped: By kernel, why it runs no more in this session.
        unexact: Why rows may come to depend on their block, if they may.
    """

    def __init__(
        self,
        exact: bool = False,
        verdicts: Verdicts | None = None,
        notice: Callable[[str], None] = lambda line: None,
    ):
        self.exact = exact
        self.verdicts = verdicts or Verdicts(machine(), default_file())
        self._notice, self._said = notice, set()
        self.dropped: dict[str, str] = {}
        self.unexact: str = ""
        self._vowed = exact  # this one, or its sibling
        self._chosen: dict[tuple[str, str, int], Kernel | None] = {}
        self._heard: dict[tuple[str, str], Request] | None = None

    def sibling(self) -> Dispatch:
        """One that need not be exact, for the drafter: what one drops, both drop."""
        other = Dispatch(False, self.verdicts, self._notice)
        other.dropped, other._said = self.dropped, self._said
        other._vowed = self._vowed
        return other

    @property
    def in_service(self) -> list[str]:
        """Names of the kernels that run something."""
        names = {kernel.name for kernel in self._chosen.values() if kernel is not None}
        return sorted(names - self.dropped.keys())

    def takes(self, rows: int) -> bool:
        """Whether a call of so many rows can go to a kernel, whatever its shape:
        cheap to ask before a call is put into words."""
        if rows == 1:
            return self.exact or self._heard is not None
        return rows <= MOST_ROWS

    def call(self, operation: Operation, shape: str, rows: int, case: Case) -> Any:
        """Run a call by a kernel, or return None where the stock operation is to run.

        Args:
            operation: The kind of call.
            shape: What a verdict depends on besides the rows, in words.
            rows: Rows of the block.
            case: The arguments.
        """
        if not self.takes(rows):
            return None
        if self._heard is not None:
            request = Request(operation, shape, case)
            self._heard.setdefault((operation.name, shape), request)
        key = operation.name, shape, rows
        if self.exact and key not in self._chosen:
            self._chosen[key] = self._exact(operation, case)
        kernel = self._chosen.get(key)
        return None if kernel is None else self.launch(kernel, case)

    def launch(self, kernel: Kernel, case: Case) -> Any:
        """Launch a kernel; None if that fails, and it is dropped."""
        if kernel.name in self.dropped:
            return None
        try:
            return kernel.launch(**case)
        except FAILURES as error:
            self.drop(kernel.name, first_line(error))
            return None

    def _exact(self, operation, case):
        kernel = operation.exact
        why = self.dropped.get(kernel.name) or kernel.refuses(**case)
        if why:
            self._say(f"Rows may depend on their block: {kernel.name} {why}.")
        return None if why else kernel

    def _say(self, line):
        """Tell a line, once."""
        if line not in self._said:
            self._said.add(line)
            self._notice(line)

    def drop(self, name: str, why: str) -> None:
        """Take a kernel out of service until the program ends; said once."""
        if name not in self.dropped:
            self.dropped[name] = why
            lost = "; rows may now depend on their block" if self._vowed else ""
            self._say(f"The {name} kernel is off from here on{lost}: {why}")
        for key, kernel in self._chosen.items():
            if kernel is not None and kernel.name == name:
                self._chosen[key] = None

    def drop_all(self, why: str) -> bool:
        """Drop every kernel in service: one of them failed, nobody knows which.

        Returns:
            Whether there was any.
        """
        names = self.in_service
        for name in names:
            self.drop(name, why)
        return bool(names)

    @contextmanager
    def listening(self) -> Iterator[list[Request]]:
        """Collect what calls made meanwhile ask for, each shape once.

        The list is complete at the end.
        """
        self._heard, requests = {}, []
        try:
            yield requests
        finally:
            requests += self._heard.values()
            self._heard = None

    def settle(self, requests: Iterable[Request], again: bool = False) -> None:
        """Decide who runs `requests`, by what is known or by measuring.

        Args:
            requests: From `listening`.
            again: Measure although there are verdicts.
        """
        wanted = {
            request.about(n): (request, n) for request in requests for n in BUCKETS
        }
        known = {} if again else self.verdicts.all()
        unknown = [about for about in wanted if about not in known]
        if unknown:
            self._say(f"Measuring kernels, once on this chip: {len(unknown)} trials.")
        for about in unknown:
            known[about] = self._judge(about, *wanted[about])
        for about, (request, rows) in wanted.items():
            self._apply(request, rows, known[about])

    def _judge(self, about, request, rows):
        """Measure, and keep the verdict."""
        # Should the program not survive the trial, this is what is left of it.
        lost = Verdict(STOCK, "the program ended while it was measured")
        self.verdicts.put(about, lost)
        try:
            verdict = judge(request, rows)
        except FAILURES as error:
            verdict = Verdict(STOCK, f"could not be measured: {first_line(error)}")
        except BaseException:  # a user's Ctrl-C says nothing of a kernel
            self.verdicts.forget(about)
            raise
        self.verdicts.put(about, verdict)
        return verdict

    def _apply(self, request, rows, verdict):
        kernels = {kernel.name: kernel for kernel in request.operation.kernels}
        kernel = kernels.get(verdict.choice)
        if verdict.choice in self.dropped:
            kernel = None
        for n in range(rows, 1, -1):
            if n < rows and n in BUCKETS:
                break
            self._chosen[request.operation.name, request.shape, n] = kernel
