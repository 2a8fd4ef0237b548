"""Who may send requests, and how large they may be: checks before any route.

Owns the Host check against DNS rebinding, the key, web origins, and the limit of
bodies. Does not know what a request means.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest

from .errors import RequestError
from .settings import Access

PORT = re.compile(r":[0-9]*\Z")
LOCAL = ("localhost", "127.0.0.1", "[::1]")
# Headers that the clients of the APIs send, and the methods of the routes.
CORS_HEADERS = (
    "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
    "openai-organization, openai-project, user-agent, x-stainless-arch, "
    "x-stainless-lang, x-stainless-os, x-stainless-package-version, "
    "x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, "
    "x-stainless-timeout, anthropic-dangerous-direct-browser-access"
)
CONTENT_LENGTH = re.compile("[0-9]{1,18}")
# Seconds in which a body must arrive.
BODY_SECONDS = 60.0
# Routes that need no key: a page that asks for the key, and a probe.
OPEN_ROUTES = ("/", "/health")


def check_host(headers: Headers, access: Access) -> None:
    """Raise RequestError unless the Host header names this server.

    A web page that resolves its own name to 127.0.0.1 sends that name.
    """
    host = headers.get("host", "")
    name = PORT.sub("", host)
    allowed = {*LOCAL, access.host, f"[{access.host}]", *access.hosts}
    if name.lower() not in {each.lower() for each in allowed}:
        raise RequestError(
            f"The host {name!r} is not allowed. Start the server with --allowed-host "
            f"{name or 'NAME'} to allow it.",
            status=403,
            code="host_not_allowed",
        )


def check_key(path: str, headers: Headers, access: Access) -> None:
    """Raise RequestError unless the request carries the server's key, if it has one."""
    if access.api_key is None or path in OPEN_ROUTES:
        return
    given = headers.get("x-api-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = token.strip() or given
    # ASGI decodes the bytes of headers as Latin-1.
    if not hmac.compare_digest(given.encode("latin-1"), access.api_key.encode()):
        raise RequestError(
            "The API key is missing or wrong. Send it as Authorization: Bearer KEY.",
            status=401,
            code="invalid_api_key",
        )


def check_json(headers: Headers) -> None:
    """Raise RequestError unless the body is declared as JSON.

    A web page cannot send that type to another origin without asking first.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            "The content-type must be application/json.", code="invalid_content_type"
        )


def cors_headers(origin: str | None, access: Access) -> Mapping[str, str]:
    """The headers that let a web page of an allowed origin read an answer."""
    if origin is None or not {origin, "*"} & set(access.origins):
        return {}
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-headers": CORS_HEADERS,
        "access-control-allow-methods": "GET, POST, OPTIONS",
        "access-control-max-age": "600",
        "vary": "origin",
    }


async def read_limited(request: HttpRequest, limit: int) -> bytes:
    """The body of a request.

    Raises:
        RequestError: It has more than `limit` bytes, or does not arrive in time.
    """
    declared = request.headers.get("content-length", "0")
    size = int(declared) if CONTENT_LENGTH.fullmatch(declared) else 0
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if size <= limit:
                async for part in request.stream():
                    body += part
                    if (size := len(body)) > limit:
                        break
    except TimeoutError:
        message = f"The body did not arrive within {BODY_SECONDS:.0f} s."
        raise RequestError(message, status=408, code="body_timeout") from None
    if size > limit:
        raise RequestError(
            f"The body has more than {limit} bytes.", status=413, code="body_too_large"
        )
    return bytes(body)
