"""Progress on stderr while a user waits: a load, a download, a long prompt.

Owns when progress is drawn: on a terminal only, and it is erased at the end. Does not
know what is loaded or downloaded.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from threading import Lock, Timer
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from huggingface_hub.utils import tqdm

READING, STOPPING = "Reading the prompt", "Stopping..."
# Seconds of prefill after which its bar is drawn.
PREFILL_DELAY = 1.0


def wanted(verbose: bool = True, as_json: bool = False) -> bool:
    """Whether progress should be drawn.

    Args:
        verbose: --verbose.
        as_json: The answer is one JSON object, which a program may read; then progress
            is drawn only if stdout is a terminal.
    """
    if not verbose or (as_json and not sys.stdout.isatty()):
        return False
    return sys.stderr.isatty()


@contextlib.contextmanager
def spinner(text: str, shown: bool) -> Iterator[Callable[[str], None]]:
    """Draw a spinner with a text while the body runs, if `shown`.

    Yields:
        A function that changes the text.
    """
    if not shown:
        yield lambda text: None
        return
    with Console(stderr=True).status(text) as status:
        yield status.update


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[Callable[..., tqdm]]:
    """Yield a factory of huggingface_hub's progress bars, which are erased at the end.

    Args:
        shown: Draw the bars.
    """
    # Imported only here, because it takes a third of a second.
    from huggingface_hub.utils import tqdm

    drawn: list[tqdm] = []

    def make_bar(*args, **options) -> tqdm:
        drawn.append(tqdm(*args, **options | {"leave": False, "disable": not shown}))
        return drawn[-1]

    try:
        yield make_bar
    finally:
        # huggingface_hub closes only some of them. The first bar goes last, so that the
        # cursor ends where it began.
        for bar in reversed(drawn):
            bar.close()


@contextlib.contextmanager
def ctrl_c_watched(notify: Callable[[], None]) -> Iterator[None]:
    """Call `notify` in a thread as soon as Ctrl-C is pressed while the body runs.

    Python handles a signal between two of its own instructions, so the usual handler
    has to wait for a pass of the model to end. This only adds the call of `notify`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def wait():
        while received := reader.recv(1):
            if received[0] == signal.SIGINT:
                notify()

    thread = threading.Thread(target=wait, daemon=True)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join()
        reader.close()


class PrefillBar:
    """A bar with tokens/s for a prefill longer than PREFILL_DELAY; a context manager.

    Call it with (tokens done, tokens in total), first with 0 done. Ctrl-C during the
    prefill shows STOPPING in place of READING at once.

    Args:
        shown: Draw the bar.
    """

    def __init__(self, shown: bool):
        self.shown = shown
        self.started = self.closed = False
        self.lock = Lock()
        self.timer = Timer(PREFILL_DELAY, self._start)
        self.timer.daemon = True
        self.since = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task(READING, total=None, speed="")
        self.watch = contextlib.ExitStack()

    def __enter__(self) -> PrefillBar:
        if self.shown:
            self.watch.enter_context(ctrl_c_watched(self._announce_stop))
        return self

    def __exit__(self, *_) -> None:
        self.close()
        self.watch.close()

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
            if not self.closed and not self.started:
                self.bar.start()
                self.started = True

    def _announce_stop(self) -> None:
        if not self.closed:
            self.bar.update(self.task, description=STOPPING)
            self._start()
            self.bar.refresh()

    def close(self) -> None:
        """Erase the bar."""
        self.timer.cancel()
        with self.lock:
            if self.started and not self.closed:
                self.bar.stop()
            self.closed = True
