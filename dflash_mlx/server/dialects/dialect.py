"""What the front needs from a dialect: how it reads requests and writes answers.

Owns the contract only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import RequestError
from ..events import Event
from ..schema import Request
from .collect import Collected


class Writer(Protocol):
    """Writes one answer. A new one is made for each request."""

    def frames(self, event: Event) -> Sequence[str]:
        """Server-sent events for an event, each complete with its empty line."""

    def keep_alive(self, event: Event | None) -> str:
        """What is sent while there is nothing to say.

        Args:
            event: The last Waiting or Prefilled, or None.
        """

    def body(self, answer: Collected) -> dict[str, Any]:
        """The JSON object of an answer that is not streamed."""


class Dialect(Protocol):
    """An API.

    Attributes:
        streamed_errors: Errors that a stream tells although it has not begun. All
            others become the HTTP status.
    """

    streamed_errors: tuple[type[RequestError], ...]

    def request(self, body: Mapping[str, Any]) -> Request:
        """The internal request of a JSON body.

        Raises:
            RequestError: A field cannot be used.
        """

    def streams(self, body: Mapping[str, Any]) -> bool:
        """Whether the answer to a body is streamed. Never raises. The same in all."""
        return body.get("stream") is True

    def writer(self, body: Mapping[str, Any], request: Request, model: str) -> Writer:
        """The writer of the answer.

        Args:
            body: The JSON body, which `request` has accepted.
            request: What it became.
            model: The name of the model that answers.
        """

    def error(self, error: RequestError) -> dict[str, Any]:
        """The JSON object of an error."""


def to_json(value: Any) -> str:
    """The value as compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def data_frame(value: Any) -> str:
    """A server-sent event without a name."""
    return f"data: {to_json(value)}\n\n"


def named_frame(name: str, value: Any) -> str:
    """A server-sent event with a name."""
    return f"event: {name}\ndata: {to_json(value)}\n\n"


def comment_frame(text: str) -> str:
    """A comment, which clients skip."""
    return f": {text}\n\n"
