"""Sends the answer of one job to its client, whole or as server-sent events.

Owns the wait for events, keep-alives, and the client that goes away. Does not know any
dialect or the queue's order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .dialects.collect import Collected
from .dialects.dialect import Dialect, Writer, to_json
from .errors import RequestError
from .events import Done, Event, Failed, Prefilled, Waiting

# Seconds between two keep-alives, and those that an error may take to become the HTTP
# status before the stream begins.
KEEP_ALIVE = 5.0
HOLD = 1.0


class Gone(Exception):
    """The client has closed its connection."""


class Inbox:
    """The events of one job, on their way from the model's thread to the front."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()

    def deliver(self, events: list[Event]) -> None:
        """Add events; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
            self._loop.call_soon_threadsafe(self._put, events)

    def _put(self, events):
        for event in events:
            self._queue.put_nowait(event)

    async def next(self, seconds: float) -> Event | None:
        """The next event, or None if there is none for so long."""
        try:
            return self._queue.get_nowait()
        except asyncio.QueueEmpty:
            pass
        # Not asyncio.wait_for, which in Python 3.11 can swallow a cancellation.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._queue.get()
        return None

    async def prompt_tokens(self) -> int:
        """The length of the prompt, from the end of a job that only counts.

        Raises:
            RequestError: The job failed.
        """
        while True:
            match await self._queue.get():
                case Done(usage):
                    return usage.prompt_tokens
                case Failed(error):
                    raise error


class Answer(Response):
    """The HTTP response with a job's answer.

    Args:
        inbox: Where the events arrive.
        dialect, writer: Write them.
        stream: Send events as they come.
        observe: Called with each event.
        abandon: Called if the client goes away first.
        headers: Further headers.
    """

    def __init__(
        self,
        inbox: Inbox,
        dialect: Dialect,
        writer: Writer,
        stream: bool,
        observe: Callable[[Event], None],
        abandon: Callable[[], None],
        headers: Mapping[str, str],
    ):
        super().__init__(headers=dict(headers))
        self.inbox, self.dialect, self.writer = inbox, dialect, writer
        self.stream, self.observe, self.abandon = stream, observe, abandon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the ASGI interface."""
        answer = self._send_stream if self.stream else self._send_whole
        tasks = [
            asyncio.ensure_future(answer(send)),
            asyncio.ensure_future(disconnected(receive)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                self.abandon()
            elif error := tasks[0].exception():
                self.abandon()
                raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, seconds: float) -> Event | None:
        event = await self.inbox.next(seconds)
        if event is not None:
            self.observe(event)
        return event

    async def _send_whole(self, send: Send) -> None:
        answer = Collected()
        while True:
            event = await self._next(KEEP_ALIVE)
            if event is not None:
                answer.add(event)
            if isinstance(event, Done | Failed):
                break
        if answer.error is not None:
            await self._send_error(send, answer.error)
        else:
            await self._send_json(send, 200, self.writer.body(answer))

    async def _send_stream(self, send: Send) -> None:
        first = await self._first()
        if first and isinstance(first[-1], Failed):
            error = first[-1].error
            if not isinstance(error, self.dialect.streamed_errors):
                await self._send_error(send, error)
                return
        await self._start(send, 200, "text/event-stream; charset=utf-8")
        async for text in self._texts(first):
            await send(body_part(text.encode(), more=True))
        await send(body_part(b"", more=False))

    async def _first(self) -> list[Event]:
        """The events up to the first that is not Waiting, or until HOLD seconds."""
        events: list[Event] = []
        end = asyncio.get_running_loop().time() + HOLD
        while (left := end - asyncio.get_running_loop().time()) > 0:
            if (event := await self._next(left)) is not None:
                events.append(event)
                if not isinstance(event, Waiting):
                    break
        return events

    async def _texts(self, first: list[Event]) -> AsyncIterator[str]:
        """The stream's text: frames of events, and keep-alives between them.

        Args:
            first: The first events.
        """
        progress: Event | None = None
        while True:
            event = first.pop(0) if first else await self._next(KEEP_ALIVE)
            if event is None or isinstance(event, Waiting | Prefilled):
                progress = event or progress
                yield self.writer.keep_alive(progress)
            elif frames := "".join(self.writer.frames(event)):
                yield frames
            if isinstance(event, Done | Failed):
                return

    async def _send_error(self, send: Send, error: RequestError) -> None:
        self.headers.update(error_headers(error))
        await self._send_json(send, error.status, self.dialect.error(error))

    async def _send_json(self, send: Send, status: int, value: Any) -> None:
        await self._start(send, status, "application/json")
        await send(body_part(to_json(value).encode(), more=False))

    async def _start(self, send: Send, status: int, kind: str) -> None:
        self.headers["content-type"] = kind
        if "content-length" in self.headers:
            del self.headers["content-length"]
        if kind != "application/json":
            self.headers["cache-control"] = "no-cache"
            self.headers["x-accel-buffering"] = "no"
        message = {"type": "http.response.start", "status": status}
        await send({**message, "headers": self.raw_headers})


def body_part(data: bytes, more: bool) -> dict[str, Any]:
    """An ASGI message with a part of a body."""
    return {"type": "http.response.body", "body": data, "more_body": more}


def error_headers(error: RequestError) -> dict[str, str]:
    """Headers that tell an SDK whether to try again, and when."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    elif error.status >= 500 and error.status != 503:
        headers["x-should-retry"] = "false"  # it would fail again
    return headers


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
