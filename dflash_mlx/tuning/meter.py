"""Says what is measured at load, how much of it is left, and for how long.

Owns the words. Does not know what is measured or where the words are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Meter:
    """Turns the steps of a measurement into lines of text.

    Args:
        title: What is under way, for example "Measuring kernels".
        status: Called with one line of text at each step.
        clock: Returns seconds.
    """

    def __init__(
        self,
        title: str,
        status: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.title, self.status, self.clock = title, status, clock
        self.started = clock()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report that a step begins.

        Args:
            done: Steps that are finished.
            total: All of them.
            what: What this step measures.
        """
        line = f"{self.title}: {what}, {done + 1} of {total}"
        if done:
            left = (self.clock() - self.started) / done * (total - done)
            line += f", about {max(left, 1):.0f} s left"
        self.status(line)
