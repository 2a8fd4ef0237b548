"""Decides who is answered next. One thread owns MLX; answers share its passes.

Owns the queue, cancelling and the model's thread. Does not know dialects; what it tells
about a request goes to the request's own `deliver`, which may be called in any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..decoding.batch import Batch, Member
from ..errors import DFlashError
from .answer import Stopped, Turn, answer
from .dialects.openai import new_id
from .errors import INTERNAL, RequestError, from_user_error
from .events import Done, Event, Failed, Usage, Waiting
from .models import Loaded, Models
from .prompt import Prepared, check_tokens, prepare
from .schema import Request
from .settings import Settings

log = logging.getLogger("dflash_mlx.server")

TOO_LONG = "The answer took longer than {:.0f} s, the server's --timeout."
STOPPING = "The server is shutting down."


@dataclass(eq=False)
class Job:
    """A request on its way.

    Args:
        request: What is asked.
        model: The served name of the model.
        deliver: Receives the events, in lists; must not block.
        prepared: Its prompt, if the model was loaded when the request came.
        deadline: When it has taken too long, in seconds of the monotonic clock.
        count_only: Deliver the length of the prompt, and no answer.

    Attributes:
        id: For logs and headers.
        cancelled: Set when the answer is not wanted any more.
        submitted: When it was submitted, in seconds of the monotonic clock.
    """

    request: Request
    model: str
    deliver: Callable[[list[Event]], None]
    prepared: Prepared | None = None
    deadline: float | None = None
    count_only: bool = False
    id: str = field(default_factory=lambda: new_id("req_"))
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted: float = field(default_factory=time.monotonic)


class Scheduler:
    """The queue of requests, and the thread that answers them.

    Args:
        models: The served models.
        settings: The server's settings.

    Attributes:
        running: The jobs that are being answered; they share passes.
    """

    def __init__(self, models: Models, settings: Settings):
        self.models, self.settings = models, settings
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.batch = Batch()
        self._members: dict[Member, Job] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._encoding = threading.Lock()  # one prompt is made at a time
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Start the model's thread."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Refuse further requests, end the present ones, and wait for the thread.

        Args:
            seconds: The longest wait.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._stopping = True
            jobs = [*self.waiting, *self.running]
            self.waiting.clear()
            self._changed.notify_all()
        for job in jobs:
            job.deliver([Failed(RequestError(STOPPING, status=503))])
            job.cancelled.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def prepare(self, request: Request, model: str) -> Prepared | None:
        """The prompt of a request, or None if its model is not loaded.

        May be called in any thread.

        Raises:
            RequestError: The model cannot be asked this.
        """
        loaded = self.models.loaded
        if loaded is None or loaded.name != model:
            return None
        return self._prepare(request, loaded)

    def _prepare(self, request: Request, loaded: Loaded) -> Prepared:
        own, limit = loaded.pair.target.context, self.settings.limits.context
        context = min((c for c in (own, limit) if c is not None), default=None)
        try:
            check_tokens(request, loaded.pair.target)
            return prepare(
                request,
                loaded.tokenizer,
                self.settings.defaults,
                context,
                loaded.reasonings,
                self._encoding,
            )
        except DFlashError as error:
            raise from_user_error(error) from None

    def submit(self, job: Job) -> None:
        """Add a job to the queue.

        Raises:
            RequestError: The queue is full, or the server is shutting down.
        """
        limits = self.settings.limits
        if limits.timeout is not None:
            job.deadline = job.submitted + limits.timeout
        with self._changed:
            if self._stopping:
                raise RequestError(STOPPING, status=503)
            if len(self.waiting) >= limits.max_queue and self.running:
                raise RequestError(
                    f"{limits.max_queue} requests are waiting already.",
                    status=429,
                    code="queue_full",
                    retry_after=5,
                )
            self.waiting.append(job)
            ahead = len(self.waiting) - 1 + len(self.running)
            self._changed.notify()
        if ahead >= limits.max_concurrent:
            job.deliver([Waiting(ahead)])

    def cancel(self, job: Job) -> None:
        """Stop answering a job, after its round or its chunk of the prefill."""
        job.cancelled.set()
        with self._changed:
            if job in self.waiting:
                self.waiting.remove(job)

    def _work(self) -> None:
        """Answer jobs until the server stops; the model's thread."""
        while (jobs := self._next()) is not None:
            for job in jobs:
                self._start(job)
            for member, job in list(self._members.items()):
                if job.cancelled.is_set():
                    self.batch.remove(member)
                    self._end(member)
            for member, _ in self.batch.turn():
                if member.ended:
                    job = self._end(member)
                    if member.error is not None:
                        self._fail(job, member.error)
        for member in list(self._members):
            self.batch.remove(member)
            self._end(member)

    def _next(self) -> list[Job] | None:
        """The jobs that begin now; None if the server stops. Waits where there is
        nothing to do."""
        with self._changed:
            while not (self.waiting or self.running or self._stopping):
                self._changed.wait()
            if self._stopping:
                return None
            jobs: list[Job] = []
            while self.waiting and self._may_start(self.waiting[0]):
                jobs.append(self.waiting.popleft())
                self.running.append(jobs[-1])
            behind = list(self.waiting) if jobs else []
        for i, other in enumerate(behind):
            other.deliver([Waiting(len(self.running) + i)])
        return jobs

    def _may_start(self, job):
        """Whether a job may share passes with those that run."""
        if len(self.running) >= self.settings.limits.max_concurrent:
            return False
        return not self.running or self.running[0].model == job.model

    def _start(self, job: Job) -> None:
        """Let a job's answer join the others, or deliver an error."""
        try:
            if not job.cancelled.is_set():
                turn = self._turn(job)
                if not job.count_only:
                    member = self.batch.add(answer(turn), len(turn.prepared.ids))
                    self._members[member] = job
                    return
                job.deliver([Done(Usage(len(turn.prepared.ids)))])
        except Exception as error:
            self._fail(job, error)
        with self._changed:
            self.running.remove(job)

    def _end(self, member):
        """Forget a job whose answer has ended; return it."""
        job = self._members.pop(member)
        with self._changed:
            self.running.remove(job)
        return job

    def _fail(self, job: Job, error: BaseException) -> None:
        """Deliver the error that ended a job."""
        if isinstance(error, Stopped):
            if not job.cancelled.is_set():
                words = TOO_LONG.format(self.settings.limits.timeout)
                late = RequestError(words, status=504, code="timeout")
                job.deliver([Failed(late)])
        elif isinstance(error, RequestError):
            job.deliver([Failed(error)])
        elif isinstance(error, DFlashError):
            job.deliver([Failed(from_user_error(error))])
        else:
            # A bug: the caches may be wrong now. Other requests are still answered.
            log.error("answering failed", exc_info=error)
            job.deliver([Failed(RequestError(INTERNAL, status=500))])
            self._forget()

    def _forget(self) -> None:
        """Drop the caches, or the model if that fails: this thread must go on."""
        try:
            if self.models.loaded is not None:
                self.models.loaded.prefixes.reset()
        except Exception:
            log.exception("the caches cannot be dropped; the model is loaded again")
            self.models.loaded = None

    def _turn(self, job: Job) -> Turn:
        """What the answer to a job needs; loads its model if it is not loaded."""
        loaded = self.models.loaded
        if loaded is None or loaded.name != job.model:
            log.info("loading %s", job.model)
            job.deliver([Waiting(0, loading=job.model)])
            loaded = self.models.get(job.model)
        prepared = job.prepared or self._prepare(job.request, loaded)

        def check():
            late = job.deadline is not None and time.monotonic() > job.deadline
            if late or job.cancelled.is_set():
                raise Stopped

        return Turn(
            job.request,
            prepared,
            loaded,
            self.settings,
            job.deliver,
            check,
            self.batch.company,
        )
