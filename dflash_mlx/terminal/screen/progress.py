"""What shows on stderr while a user waits: a load, a download, a long prompt.

Everything here is drawn on a terminal only, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from threading import Lock, Timer

from huggingface_hub.utils import tqdm
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# Prompts that are read in so many seconds get no bar.
PATIENCE = 1.0


def wanted(verbose: bool = True, as_json: bool = False) -> bool:
    """Whether anybody would look at progress.

    Args:
        verbose: --verbose.
        as_json: The answer is for a program, unless stdout is a terminal.
    """
    if not verbose or (as_json and not sys.stdout.isatty()):
        return False
    return sys.stderr.isatty()


@contextlib.contextmanager
def spinner(text: str, shown: bool) -> Iterator[None]:
    """Something that turns, beside a text, while the body runs."""
    if not shown:
        yield
        return
    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[Callable[..., tqdm]]:
    """What makes huggingface_hub's bars, of files and of bytes; they go at the end."""
    drawn: list[tqdm] = []

    def bar(*args, **options) -> tqdm:
        drawn.append(tqdm(*args, **options | {"leave": False, "disable": not shown}))
        return drawn[-1]

    try:
        yield bar
    finally:
        # It closes only some of them itself; the first one's end is a line's start.
        for each in reversed(drawn):
            each.close()


class Prefill:
    """A bar with tokens/s, once a prompt takes longer than PATIENCE; a context manager.

    It is called with (tokens done, tokens in all), first with 0 done.

    Args:
        shown: Draw it at all.
    """

    def __init__(self, shown: bool):
        self.shown = shown
        self.started = self.closed = False
        self.lock = Lock()
        self.timer = Timer(PATIENCE, self._start)
        self.timer.daemon = True
        self.since = 0.0
        self.bar = Progress(
            TextColumn("Reading the prompt"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("", total=None, speed="")

    def __enter__(self) -> Prefill:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __call__(self, done: int, total: int) -> None:
        if not self.shown:
            return
        if done == 0:
            self.since = time.perf_counter()
            self.timer.start()
        spent = time.perf_counter() - self.since
        speed = f"{done / spent:,.0f} tokens/s" if done else ""
        self.bar.update(self.task, completed=done, total=total, speed=speed)
        if done == total:
            self.close()

    def _start(self) -> None:
        with self.lock:
            if not self.closed:
                self.bar.start()
                self.started = True

    def close(self) -> None:
        """Take it off the screen."""
        self.timer.cancel()
        with self.lock:
            if self.started and not self.closed:
                self.bar.stop()
            self.closed = True
