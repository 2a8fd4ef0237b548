"""The routes of the server, each with and without /v1, and the checks before them.

Owns which dialect answers which path. Touches no array: requests go to the scheduler.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .dialects.anthropic import Messages, count_body
from .dialects.chat import ChatCompletions
from .dialects.completions import Completions
from .dialects.dialect import Dialect
from .dialects.responses import Responses
from .errors import INTERNAL, MOST_NAME, PromptTooLong, RequestError, one_line
from .events import Failed
from .guard import check_host, check_json, check_key, cors_headers, read_limited
from .metrics import Metrics, RequestMetrics
from .models import Models
from .request_log import RequestLog
from .respond import Answer, Inbox, error_headers
from .scheduler import Job, Scheduler
from .schema import Request, read_body
from .settings import Access, Settings

# No other site may show the page in a frame; a newer server's page replaces a kept one.
PAGE_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",
    "cache-control": "no-cache",
}
log = logging.getLogger("dflash_mlx.server")

WARNING_HEADER = "x-dflash-warning"
DIALECTS: Mapping[str, Dialect] = {
    "/chat/completions": ChatCompletions(),
    "/completions": Completions(),
    "/responses": Responses(),
    "/messages": Messages(),
}


@dataclass
class Server:
    """What the routes share.

    Args:
        models: The served models.
        scheduler: Answers requests.
        settings: The server's settings.
    """

    models: Models
    scheduler: Scheduler
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    started: float = field(default_factory=time.monotonic)

    async def answer(self, http: HttpRequest, dialect: Dialect) -> Response:
        """Answer a POST of a dialect."""
        body, request = await self.read(http, dialect)
        stream, inbox, failed = dialect.streams(body), Inbox(), None
        job = Job(request, self.models.find(request.model), inbox.deliver)
        try:
            await self.prepare(job)
        except dialect.streamed_errors as error:
            if not stream:
                raise
            failed = Failed(error)
        writer = dialect.writer(body, request, request.model or job.model)
        observers = (
            RequestMetrics(self.metrics, job.model),
            RequestLog(job.id, http.scope["path"], job.model, body),
        )
        ignored = job.prepared.warnings if job.prepared else ()
        names = ("x-request-id", "request-id")  # OpenAI's and Anthropic's
        headers = dict.fromkeys(names, job.id)
        headers |= warning_headers((*request.warnings, *ignored))

        def observe(event):
            for each in observers:
                each.observe(event)

        def abandon():
            self.scheduler.cancel(job)
            for each in observers:
                each.abort()

        answer = Answer(inbox, dialect, writer, stream, observe, abandon, headers)
        if failed is None:
            self.scheduler.submit(job)  # from here on the answer must be sent
        else:
            job.deliver([failed])
        return answer

    async def read(
        self, http: HttpRequest, dialect: Dialect
    ) -> tuple[dict[str, Any], Request]:
        """The JSON object of a request's body, and the request.

        Raises:
            RequestError: It is not one, is too large, or takes too long to arrive.
        """
        check_json(http.headers)
        raw = await read_limited(http, self.settings.limits.body_bytes)

        def parse():
            body = read_body(raw)
            return body, dialect.request(body)

        return await run_in_threadpool(parse)  # a large one takes a second

    async def prepare(self, job: Job) -> None:
        """Make the prompt of a job, if its model is loaded.

        Raises:
            RequestError: The model cannot be asked this.
        """
        prepare = self.scheduler.prepare
        job.prepared = await run_in_threadpool(prepare, job.request, job.model)

    async def count_tokens(self, http: HttpRequest, dialect: Dialect) -> Response:
        """Answer a POST that asks for the length of a request's prompt."""
        (_, request), inbox = await self.read(http, dialect), Inbox()
        job = Job(request, self.models.find(request.model), inbox.deliver)
        try:
            await self.prepare(job)
            if job.prepared is not None:
                tokens = len(job.prepared.ids)
            else:  # its model must be loaded first
                job.count_only = True
                self.scheduler.submit(job)
                tokens = await inbox.prompt_tokens()
        except PromptTooLong as error:
            tokens = error.tokens
        return JSONResponse(count_body(tokens))

    def status(self) -> dict[str, Any]:
        """What the server is doing, for its page."""
        models, scheduler = self.models, self.scheduler
        loaded = models.loaded
        return {
            "model": loaded.name if loaded else models.loading or models.names[0],
            "state": "ready" if loaded else "loading",
            "drafter": loaded.drafter if loaded else None,
            "context": models.context(),
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "max_queue": self.settings.limits.max_queue,
            "version": version("dflash-mlx"),
            "uptime": time.monotonic() - self.started,
        }

    def metrics_text(self) -> bytes:
        """The counters, with the present length of the queue."""
        scheduler = self.scheduler
        name = self.models.names[0]
        self.metrics.running.labels(name).set(len(scheduler.running))
        self.metrics.waiting.labels(name).set(len(scheduler.waiting))
        if (loaded := self.models.loaded) and (context := self.models.context()):
            share = loaded.prefixes.tokens / context
            self.metrics.cache_usage.labels(loaded.name).set(share)
        return self.metrics.text()


def warning_headers(warnings: tuple[str, ...]) -> dict[str, str]:
    """The header with what was ignored in a request."""
    text = one_line(" ".join(one_line(each, MOST_NAME) for each in warnings))
    ascii = text.encode("ascii", "replace").decode()
    return {WARNING_HEADER: ascii} if ascii else {}


def make_app(server: Server) -> ASGIApp:
    """The ASGI application of a server."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    routes = {path: post_route(server.answer, each) for path, each in DIALECTS.items()}
    counting = post_route(server.count_tokens, DIALECTS["/messages"])
    routes["/messages/count_tokens"] = counting
    for path, route in routes.items():
        for prefix in ("/v1", ""):
            app.add_api_route(prefix + path, route, methods=["POST"])
    add_information(app, server)
    app.add_exception_handler(RequestError, error_response)
    app.add_exception_handler(HTTPException, http_error_response)
    app.add_exception_handler(Exception, bug_response)
    return Guard(app, server.settings.access)


def post_route(answer: Callable, dialect: Dialect) -> Callable:
    """The function that answers a path.

    Args:
        answer: Server.answer, or another of its methods with the same arguments.
        dialect: The API, which writes errors too.
    """

    async def route(http: HttpRequest) -> Response:
        try:
            return await answer(http, dialect)
        except RequestError as error:
            return json_error(error, dialect.error(error))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return route


def add_information(app: FastAPI, server: Server) -> None:
    """Add the routes that tell about the server."""
    page = files(__package__).joinpath("page/index.html")

    async def index(http: HttpRequest) -> Response:
        return HTMLResponse(page.read_text("utf-8"), headers=PAGE_HEADERS)

    async def models(http: HttpRequest) -> Response:
        return JSONResponse(server.models.list_body())

    async def model(http: HttpRequest) -> Response:
        name = http.path_params["name"]
        server.models.find(name)
        return JSONResponse(server.models.record(name))

    async def health(http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def status(http: HttpRequest) -> Response:
        return JSONResponse(server.status())

    async def metrics(http: HttpRequest) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(server.metrics_text(), media_type=kind)

    routes = {"/models": models, "/models/{name:path}": model, "/health": health}
    routes |= {"/status": status, "/metrics": metrics}
    for path, route in routes.items():
        for prefix in ("/v1", ""):
            app.add_route(prefix + path, route, methods=["GET"])
    app.add_route("/", index, methods=["GET"])


def json_error(error: RequestError, body: dict[str, Any]) -> Response:
    """The HTTP response of an error."""
    return JSONResponse(body, error.status, headers=error_headers(error))


async def error_response(http: HttpRequest, error: Exception) -> Response:
    """The HTTP response of a RequestError outside the dialects' routes."""
    return json_error(error, dialect_of(http.scope["path"]).error(error))


async def bug_response(http: HttpRequest, error: Exception) -> Response:
    """The HTTP response of a bug. Its traceback goes to the log."""
    return await error_response(http, RequestError(INTERNAL, status=500))


async def http_error_response(http: HttpRequest, error: Exception) -> Response:
    """The HTTP response where there is no route."""
    path, method = http.scope["path"], http.method
    words = {
        404: f"There is no {path} here.",
        405: f"{path} does not answer {method}.",
    }
    found = RequestError(words.get(error.status_code, error.detail), error.status_code)
    return json_error(found, dialect_of(path).error(found))


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path's errors are written; OpenAI's for most."""
    bare = path.removeprefix("/v1")
    for start, dialect in DIALECTS.items():
        if bare.startswith(start):
            return dialect
    return DIALECTS["/chat/completions"]


class Guard:
    """Checks each request before its route, and adds headers for web origins.

    Args:
        app: The application behind it.
        access: Who may use the server.
    """

    def __init__(self, app: FastAPI, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; the ASGI interface."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        cors = cors_headers(headers.get("origin"), self.access)
        send = with_headers(send, cors)
        try:
            check_host(headers, self.access)
            if scope["method"] == "OPTIONS":
                await Response(status_code=204)(scope, receive, send)
                return
            check_key(path, headers, self.access)
        except RequestError as error:
            response = json_error(error, dialect_of(path).error(error))
            await response(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except Exception:
            # A bug. The client has its answer from `bug_response`, and its connection
            # can be used again.
            log.exception("a request to %r failed", path)


def with_headers(send: Send, more: Mapping[str, str]) -> Send:
    """A `send` that adds headers to the response."""
    if not more:
        return send
    raw = [(name.encode(), value.encode()) for name, value in more.items()]

    async def wrapped(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *raw]}
        await send(message)

    return wrapped
