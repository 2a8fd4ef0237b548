"""What an answer does when a Metal kernel fails under it.

MLX raises a kernel's failure wherever the host next waits for the device. The answer
then drops the pair's kernels and goes on with MLX's own operations: its caches are
computed again from its text. Does not know what a pass or a round is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..metal.kernel import KERNEL_ERRORS, error_summary
from ..pair import Pair
from ..types import Round


class Recovery:
    """Begins the rounds of one answer again after a kernel failed.

    Args:
        pair: Its kernels are dropped.
    """

    def __init__(self, pair: Pair):
        self.pair = pair
        self._in_caller = False
        self._error: BaseException | None = None

    def callers(self, function: Callable | None) -> Callable | None:
        """Wrap a caller's function so that its exceptions are not mistaken for kernel
        failures; None stays None."""

        def call(*args):
            self._in_caller = True
            result = function(*args)
            self._in_caller = False
            return result

        return function and call

    def rounds(self, attempt: Callable[[bool], Iterator[Round]]) -> Iterator[Round]:
        """Yield the rounds of `attempt`, which is called again after each failure.

        Args:
            attempt: attempt(again) gives the rounds that are left; `again` says
                whether the caches have to be computed from the text first.

        Raises:
            Exception: As `attempt`, where no kernel can be the cause.
        """
        again = False
        while True:
            # A slow kernel may be dropped while its work is still under way.
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

    def deferring(self, *kinds: type[BaseException]) -> Deferral:
        """A context in which exceptions of these kinds wait for `raise_deferred`.

        A round whose tokens were cut is part of the answer, whatever fails after that:
        it is yielded first.
        """
        return Deferral(self, kinds)

    @property
    def deferred(self) -> bool:
        """Whether an exception waits to be raised."""
        return self._error is not None

    def raise_deferred(self) -> None:
        """Raise the exception that `deferring` kept, if there is one."""
        error, self._error = self._error, None
        if error is not None:
            raise error


@dataclass(frozen=True)
class Deferral:
    """Hands the exceptions inside it to a Recovery."""

    recovery: Recovery
    kinds: tuple[type[BaseException], ...]

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace) -> bool:
        deferred = isinstance(error, self.kinds)
        if deferred:
            self.recovery._error = error
        return deferred
