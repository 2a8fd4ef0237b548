"""Continues an answer after a Metal kernel failed.

MLX raises a kernel's failure wherever the host next waits for the device. Recovery
drops the pair's kernels, and the answer continues with MLX's own operations: its caches
are computed again from its text. Does not know how passes and rounds are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..metal.kernel import KERNEL_ERRORS, error_summary
from ..pair import Pair
from ..types import Round


class Recovery:
    """Starts the rounds of one answer again after a kernel failed.

    Args:
        pair: Its kernels are dropped.
    """

    def __init__(self, pair: Pair):
        self.pair = pair
        self._in_caller = False
        self._error: BaseException | None = None

    def wrap_callback(self, function: Callable | None) -> Callable | None:
        """Wrap a caller's function so that its exceptions are not mistaken for kernel
        failures. None is returned as it is."""

        def call(*args):
            self._in_caller = True
            result = function(*args)
            self._in_caller = False
            return result

        return function and call

    def rounds(self, attempt: Callable[[bool], Iterator[Round]]) -> Iterator[Round]:
        """Yield the rounds of `attempt`, which is called again after each failure.

        Args:
            attempt: attempt(again) yields the rounds that are left. If `again`, it has
                to compute the caches from the text first.

        Raises:
            Exception: From `attempt`, if no kernel can be the cause.
        """
        again = False
        while True:
            # The caller may drop a slow kernel while its work is still running.
            kernels = self.pair.kernels_in_service
            try:
                yield from attempt(again)
                return
            except KERNEL_ERRORS as error:
                if self._in_caller:
                    raise
                if not (self.pair.drop_kernels(error_summary(error)) or kernels):
                    raise
            again = True

    def defer(self, *kinds: type[BaseException]) -> Deferral:
        """A context that keeps an exception of these kinds for `raise_deferred`.

        Once a round's tokens are cut, the round is part of the answer. It is yielded
        before an exception is raised.
        """
        return Deferral(self, kinds)

    @property
    def deferred(self) -> bool:
        """Whether an exception waits to be raised."""
        return self._error is not None

    def raise_deferred(self) -> None:
        """Raise the exception that `defer` kept, if there is one."""
        error, self._error = self._error, None
        if error is not None:
            raise error


@dataclass(frozen=True)
class Deferral:
    """The context of Recovery.defer.

    Not a generator: an interrupt between its `try` and `yield` would skip the body.
    """

    recovery: Recovery
    kinds: tuple[type[BaseException], ...]

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace) -> bool:
        # A generator that is closed must end here.
        deferred = isinstance(error, self.kinds) and kind is not GeneratorExit
        if deferred:
            self.recovery._error = error
        return deferred
