"""A server that plays answers written by a test, for the official SDKs.

Each request takes the next answer: events, which go through the dialect's writer, or an
error, which is sent with its status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dflash_mlx.server.dialects.collect import Collected
from dflash_mlx.server.dialects.dialect import Dialect
from dflash_mlx.server.errors import RequestError
from dflash_mlx.server.events import Done, Finish, Speed, Started, Step, Usage
from dflash_mlx.server.schema import read_body

Answer = list[Any] | RequestError | dict[str, Any]
SPEED = Speed(None, 1.0, None)
USAGE = Usage(30, 10, 7, 2)


def answer(
    *parts: Any, reason: str = "stop", usage: Usage = USAGE, **finish: Any
) -> list[Any]:
    """The events of an answer of one choice.

    Args:
        parts: Parts of a step each, or whole steps.
        reason, finish: As in Finish.
        usage: As in Done.
    """
    steps = [p if isinstance(p, Step) else Step(0, (p,), (), SPEED) for p in parts]
    return [
        Started(usage.prompt_tokens, usage.cached_tokens),
        *steps,
        Finish(0, reason, **finish),
        Done(usage, {"rounds": 3}),
    ]


class PlayedServer:
    """Plays answers and keeps the requests.

    Args:
        dialect: The API.
        answers: Events, an error, or a JSON object, one per request.

    Attributes:
        bodies: The JSON bodies so far.
    """

    def __init__(self, dialect: Dialect, answers: Sequence[Answer]):
        self.dialect, self.answers = dialect, list(answers)
        self.bodies: list[dict[str, Any]] = []
        routes = [Route("/{path:path}", self._post, methods=["POST"])]
        self.app = Starlette(routes=routes)

    def client(self) -> httpx2.AsyncClient:
        """An HTTP client for an SDK, without a socket."""
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app))

    async def _post(self, http: Request) -> Response:
        try:
            body = read_body(await http.body())
            self.bodies.append(body)
            return self._answer(body, self.answers.pop(0))
        except RequestError as error:
            return self._error(error)

    def _answer(self, body: Mapping[str, Any], answer: Answer) -> Response:
        if isinstance(answer, RequestError):
            raise answer
        request = self.dialect.request(body)
        if isinstance(answer, dict):
            return JSONResponse(answer)
        writer = self.dialect.writer(body, request, body["model"])
        if self.dialect.streams(body):
            frames = [frame for event in answer for frame in writer.frames(event)]
            return StreamingResponse(iter(frames), media_type="text/event-stream")
        return JSONResponse(writer.body(collect(answer)))

    def _error(self, error: RequestError) -> Response:
        headers = {"x-should-retry": "true" if error.retry_after else "false"}
        if error.retry_after:
            headers["retry-after-ms"] = str(error.retry_after)
        return JSONResponse(self.dialect.error(error), error.status, headers)


def collect(events: Sequence[Any]) -> Collected:
    """The events added up."""
    collected = Collected()
    for event in events:
        collected.add(event)
    return collected


def read_frames(frames: Sequence[str]) -> list[tuple[str | None, Any]]:
    """(name, JSON) of each server-sent event; comments have the name ":"."""
    found = []
    for frame in "".join(frames).split("\n\n")[:-1]:
        lines = frame.split("\n")
        if lines[0].startswith(":"):
            found.append((":", lines[0][2:]))
            continue
        name = lines.pop(0).removeprefix("event: ") if len(lines) == 2 else None
        (data,) = lines
        found.append((name, json.loads(data.removeprefix("data: "))))
    return found


def run(function: Callable[[], Awaitable[Any]]) -> Any:
    """The result of an async function."""
    return asyncio.run(function())
