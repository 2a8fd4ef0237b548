"""A server with OpenAI's chat API as a contender: vLLM, SGLang, mlx_lm.server, others.

Owns the request, the event stream and their clocks, over the standard library. The
server's model and its chat template are its own business: nothing here knows a pair.
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

# Seconds without a byte after which a server is given up.
PATIENCE = 300


class Server:
    """A server that is asked as a contender.

    Args:
        url: Its address, with or without /v1.
        tokenizer: Counts tokens where the server does not.
        key: Sent as a bearer token, if there is one.
        model: The model to ask for; None is the first that it lists.

    Raises:
        OptionError: The address is none.
        ServerError: It cannot be reached, or lists no model.
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
        """As Contender.answer; the first chunk that has text is the first token."""
        text, usage, first, last = "", 0, 0.0, 0.0
        start = time.perf_counter()
        with self._open("/chat/completions", self._body(request)) as response:
            for event in self._events(response):
                piece = self._understood(said, event)
                if piece:
                    last = time.perf_counter()
                    first = first or last
                    text += piece
                usage = self._understood(counted, event) or usage
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if not first:
            raise ServerError(f"{self.url} answered without any text.")
        return Answer(
            tokens,
            usage or len(tokens),
            first - start,
            last - first,
            counted="server" if usage else "tokenizer",
        )

    def follows(self, temp: float) -> bool:
        """As Contender.follows: its text is no tokens."""
        return False

    def _body(self, request: Request) -> dict[str, Any]:
        """The request, with those of the usual settings that say something."""
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
            body["ignore_eos"] = True  # as vLLM, SGLang and llama.cpp call it
        optional = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
        set_ones = {name: vars(sampling)[name] for name in optional}
        return body | {k: v for k, v in set_ones.items() if v != optional[k]}

    def _first_model(self) -> str:
        """The first model that the server lists."""
        with self._open("/models") as response, self._whole():
            listed = self._parsed(response.read())
        models = self._understood(names, listed)
        if not models:
            raise ServerError(
                f"{self.url} lists no model.", "Name one with --api-model."
            )
        return models[0]

    def _open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        """Send a request; every refusal becomes a ServerError."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            return urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")[:300]
            raise ServerError(
                f"{self.url}{path} refused with {error.code}: {told}",
                "Check --api-key and --api-model.",
            ) from None
        except (OSError, HTTPException) as error:
            raise ServerError(
                f"{self.url} cannot be reached: {error}.", "Is the server running?"
            ) from None
        except ValueError:  # its words would show the key
            raise OptionError(
                "--base-url or --api-key has characters that cannot be sent.",
                "Look for a line break, a letter of no ASCII, or a broken address.",
            ) from None

    def _events(self, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
        """The JSON of each `data:` line up to [DONE]."""
        with self._whole():
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield self._parsed(data)
        raise ServerError(f"{self.url} broke off its answer before [DONE].")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What the body reads is to come to its end."""
        try:
            yield
        except (OSError, HTTPException) as error:
            raise ServerError(f"{self.url} broke off its answer: {error}.") from None

    def _understood(self, read: Callable[[dict], Any], event: dict[str, Any]) -> Any:
        """What `read` finds in a JSON object, if that is laid out as it should be."""
        try:
            return read(event)
        except (TypeError, KeyError, AttributeError, ValueError):
            told = json.dumps(event)[:80]
            raise ServerError(
                f"{self.url} speaks another dialect than OpenAI's chat API: {told}"
            ) from None

    def _parsed(self, data: bytes) -> dict[str, Any]:
        """A JSON object, unless it tells of an error."""
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise ServerError(f"{self.url} sent what is no JSON object: {data[:80]!r}.")
        if event.get("error"):
            raise ServerError(f"{self.url} tells of an error: {event['error']}")
        return event


def names(listed: dict[str, Any]) -> list[str]:
    """The models of a list."""
    return [model["id"] for model in listed.get("data") or ()]


def counted(event: dict[str, Any]) -> int:
    """How many tokens the server says it made; 0 where it does not."""
    return int((event.get("usage") or {}).get("completion_tokens") or 0)


def said(event: dict[str, Any]) -> str:
    """A chunk's text, that of reasoning included."""
    pieces = ""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        pieces += delta.get("reasoning_content") or delta.get("reasoning") or ""
        pieces += delta.get("content") or ""
    return pieces
