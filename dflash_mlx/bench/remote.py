"""Measure a server with OpenAI's chat API: vLLM, SGLang, mlx_lm.server and others.

Owns the request, the event stream and its clock, with the standard library only. Does
not know pairs or chat templates, which the server has itself.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..errors import OptionError, ServerError
from .contenders import Answer, Request

# Seconds to wait for the next byte.
TIMEOUT = 300


class Server:
    """A server as a contender.

    Args:
        url: Address of the server, with or without /v1.
        tokenizer: Counts tokens if the server does not.
        key: API key, sent as a bearer token; None sends none.
        model: Name of the model on the server; None takes the first one listed.

    Raises:
        OptionError: The address or the key is invalid.
        ServerError: The server cannot be reached, or lists no model.
    """

    name = "server"

    def __init__(
        self,
        url: str,
        tokenizer: TokenizerWrapper,
        key: str | None = None,
        model: str | None = None,
    ):
        if not url.startswith(("http://", "https://")):
            raise OptionError(
                f"--base-url must begin with http:// or https://, but is {url!r}."
            )
        url = url.rstrip("/")
        self.url = url if url.endswith("/v1") else f"{url}/v1"
        self.tokenizer, self._key = tokenizer, key
        self.model = model or self._first_model()

    def answer(self, request: Request) -> Answer:
        """As Contender.answer; the first chunk with text counts as the first token."""
        text, usage, first, last = "", 0, 0.0, 0.0
        start = time.perf_counter()
        with self._open("/chat/completions", self._body(request)) as response:
            for event in self._events(response):
                piece = self._extract(chunk_text, event)
                if piece:
                    last = time.perf_counter()
                    first = first or last
                    text += piece
                usage = self._extract(completion_tokens, event) or usage
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if not first:
            raise ServerError(f"{self.url} sent an answer without text.")
        return Answer(
            tokens,
            usage or len(tokens),
            first - start,
            last - first,
            counted="server" if usage else "tokenizer",
        )

    def must_match_plain(self, temp: float) -> bool:
        """As Contender.must_match_plain: a server sends no token ids to compare."""
        return False

    def _body(self, request: Request) -> dict[str, Any]:
        """The JSON of a request; options with their default value are left out."""
        sampling = request.sampling
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": request.text}],
            "max_tokens": request.max_tokens,
            "temperature": sampling.temp,
            "seed": sampling.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.endless:
            body["ignore_eos"] = True  # the name in vLLM, SGLang and llama.cpp
        for name, default in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
            if (value := vars(sampling)[name]) != default:
                body[name] = value
        return body

    def _first_model(self) -> str:
        """The first model that the server lists."""
        with self._open("/models") as response, self._broken_connections():
            listed = self._parse(response.read())
        models = self._extract(model_names, listed)
        if not models:
            raise ServerError(
                f"{self.url} lists no models.", "Name one with --api-model."
            )
        return models[0]

    def _open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        """Send a request.

        Raises:
            ServerError: The server cannot be reached, or answers with an error.
            OptionError: The address or the key is invalid.
        """
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            message = error.read().decode(errors="replace")[:300]
            raise ServerError(
                f"{self.url}{path} answered with status {error.code}: {message}",
                "Check --api-key and --api-model.",
            ) from None
        except (OSError, HTTPException) as error:
            raise ServerError(
                f"{self.url} cannot be reached: {error}.", "Is the server running?"
            ) from None
        except ValueError:  # the error's text would show the key
            raise OptionError(
                "--base-url or --api-key has characters that cannot be sent.",
                "Check them for line breaks, non-ASCII letters and mistyped addresses.",
            ) from None

    def _events(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """The JSON of each `data:` line up to [DONE]."""
        with self._broken_connections():
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield self._parse(data)
        raise ServerError(f"{self.url} ended its answer before [DONE].")

    @contextmanager
    def _broken_connections(self) -> Iterator[None]:
        """Turn the exceptions of a broken connection into ServerError."""
        try:
            yield
        except (OSError, HTTPException) as error:
            raise ServerError(f"The connection to {self.url} broke: {error}.") from None

    def _extract(self, get: Callable[[dict], Any], event: dict[str, Any]) -> Any:
        """Get a value from a JSON object.

        Raises:
            ServerError: The object has another structure.
        """
        try:
            return get(event)
        except (TypeError, KeyError, AttributeError, ValueError):
            start = json.dumps(event)[:80]
            raise ServerError(
                f"{self.url} does not follow OpenAI's chat API: {start}"
            ) from None

    def _parse(self, data: bytes) -> dict[str, Any]:
        """Parse a JSON object.

        Raises:
            ServerError: The data is not a JSON object, or it reports an error.
        """
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ServerError(
                f"{self.url} sent something other than a JSON object: {data[:80]!r}."
            )
        if event.get("error"):
            raise ServerError(f"{self.url} reported an error: {event['error']}")
        return event


def model_names(listed: dict[str, Any]) -> list[str]:
    """The names in a list of models."""
    return [model["id"] for model in listed.get("data") or ()]


def completion_tokens(event: dict[str, Any]) -> int:
    """The number of tokens that the server reports; 0 if it reports none."""
    return int((event.get("usage") or {}).get("completion_tokens") or 0)


def chunk_text(event: dict[str, Any]) -> str:
    """The text of a chunk, with reasoning text."""
    pieces = ""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        pieces += delta.get("reasoning_content") or delta.get("reasoning") or ""
        pieces += delta.get("content") or ""
    return pieces
