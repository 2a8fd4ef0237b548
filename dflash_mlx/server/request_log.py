"""The server's log: a line for each request, and texts at the level "debug" only.

Owns the words. Does not know HTTP.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from .errors import printable
from .events import Content, Done, Event, Failed, Reasoning, Started, Step

log = logging.getLogger("dflash_mlx.server")


class RequestLog:
    """Logs one request.

    Args:
        id: The request's.
        path: Its route.
        model: The served name of the model.
        body: The JSON body.
    """

    def __init__(self, id: str, path: str, model: str, body: dict[str, Any]):
        self.name = f"{id} {path} {model}"
        self.begun = time.monotonic()
        self.cached = 0
        if log.isEnabledFor(logging.DEBUG):
            text = json.dumps(body, ensure_ascii=False)
            log.debug("%s: %s", self.name, printable(text))

    def observe(self, event: Event) -> None:
        """Log an event, if it says how the request goes."""
        match event:
            case Started(_, cached_tokens):
                self.cached = cached_tokens
            case Step(parts=parts) if log.isEnabledFor(logging.DEBUG):
                texts = [p.text for p in parts if isinstance(p, Content | Reasoning)]
                log.debug("%s: + %r", self.name, "".join(texts))
            case Done(usage, summary):
                rate = summary["tokens_per_second"]
                log.info(
                    "%s: %d prompt tokens (%d cached), %d tokens, %s, %.1f s",
                    self.name,
                    usage.prompt_tokens,
                    self.cached,
                    usage.completion_tokens,
                    f"{rate:.1f} tok/s" if rate else "1 token",
                    time.monotonic() - self.begun,
                )
            case Failed(error):
                log.info("%s: %d %s", self.name, error.status, error.message)

    def abort(self) -> None:
        """Log that the client has gone."""
        spent = time.monotonic() - self.begun
        log.info("%s: the client went away after %.1f s", self.name, spent)
