"""An answer as OpenAI's response, streamed or whole.

Owns the order of the events, their numbers, and the response's own fields. Both forms
come from the same events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from ..errors import RequestError
from ..events import (
    Content,
    Done,
    Event,
    Failed,
    Finish,
    Reasoning,
    Started,
    Step,
    TokenLogprob,
    Usage,
)
from ..schema import Request
from .chat import logprobs_body
from .collect import Collected
from .dialect import named_frame
from .openai import new_id
from .responses_items import CallItem, CustomCallItem, MessageItem, ReasoningItem
from .responses_tools import Route

Item = MessageItem | ReasoningItem | CallItem | CustomCallItem


def usage_body(usage: Usage) -> dict[str, Any]:
    """Usage as Responses writes it."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def failure_body(error: RequestError) -> dict[str, Any]:
    """The error of a response that failed."""
    codes = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
    code = error.code or codes.get(error.status, "server_error")
    return {"code": code, "message": error.message}


class ResponseWriter:
    """Writes an answer as events, or as one response.

    Args:
        request: What is answered.
        echo: Fields of the request that the response repeats.
        routes: The tools, by the names under which the model calls them.
        carry_reasoning: Put the reasoning into encrypted_content too.
    """

    def __init__(
        self,
        request: Request,
        echo: Mapping[str, Any],
        routes: Mapping[str, Route],
        carry_reasoning: bool = False,
    ):
        self.request, self.routes = request, routes
        self.carry_reasoning = carry_reasoning
        self.token = new_id("")
        self.response: dict[str, Any] = {
            "id": f"resp_{self.token}",
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            **echo,
            "output": [],
            "usage": None,
        }
        self.number = 0  # of the next event
        self.begun = False
        self.item: Item | None = None  # the open one
        self.index = -1  # its place in the stream
        self.logprobs: list[TokenLogprob] = []  # not written yet
        self.reason = "stop"

    def frames(self, event: Event) -> Sequence[str]:
        """As in Writer."""
        return [named_frame(each["type"], each) for each in self._events(event)]

    def keep_alive(self, event: Event | None) -> str:
        """As in Writer. Codex does not count comments, so it is an event."""
        events = [self._progress()] if self.begun else self._begin()
        return "".join(named_frame(each["type"], each) for each in events)

    def body(self, answer: Collected) -> dict[str, Any]:
        """As in Writer."""
        for event in answer.events:
            for _ in self._events(event):
                pass
        return self.response

    def _events(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Started():
                yield from self._begin()
            case Step(parts=parts, logprobs=logprobs):
                self.logprobs += logprobs
                for part in parts:
                    yield from self._part(part)
            case Finish(reason=reason, warnings=warnings):
                cut = reason == "length"
                yield from self._close("incomplete" if cut else "completed")
                self.reason = reason
                if warnings:
                    self.response["warnings"] = list(warnings)
            case Done(usage, summary):
                yield self._end(usage, summary)
            case Failed(error):
                yield from self._begin()
                self.response |= {"status": "failed", "error": failure_body(error)}
                yield self._event("response.failed", response=self.response)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self.number += 1
        return {"type": kind, "sequence_number": self.number - 1, **fields}

    def _begin(self):
        if not self.begun:
            self.begun = True
            yield self._event("response.created", response=self.response)
            yield self._progress()

    def _progress(self):
        response = {**self.response, "output": []}
        return self._event("response.in_progress", response=response)

    def _end(self, usage, summary):
        status = "incomplete" if self.reason == "length" else "completed"
        self.response |= {"status": status, "usage": usage_body(usage)}
        self.response["dflash"] = summary
        if status == "incomplete":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        return self._event(f"response.{status}", response=self.response)

    def _part(self, part):
        match part:
            case Reasoning(text) if text:
                if not isinstance(self.item, ReasoningItem):
                    yield from self._open(ReasoningItem(self.carry_reasoning))
                yield from self._number(self.item.add(text))
            case Content(text):
                yield from self._text(text)
            case CallStart(_, id, name):
                yield from self._start_call(id, self.routes.get(name, Route(name)))
            case CallArguments(_, fragment):
                if isinstance(self.item, CallItem) and fragment:
                    yield from self._number(self.item.add(fragment))
            case CallEnd(_, arguments):
                yield from self._end_call(arguments)
            case CallBroken(index, raw, _, truncated):
                if index is not None:
                    yield from self._drop_call()
                yield from self._text("" if truncated else raw)

    def _text(self, text):
        if text:
            if not isinstance(self.item, MessageItem):
                yield from self._open(MessageItem())
            yield from self._number(self.item.add(text, self._take_logprobs()))

    def _take_logprobs(self):
        tokens, self.logprobs = self.logprobs, []
        asked = self.request.logprobs is not None
        return logprobs_body(tokens)["content"] if asked else []

    def _start_call(self, id, route):
        if route.custom:
            yield from self._close("completed")
            self.item = CustomCallItem(id, route)
        else:
            yield from self._open(CallItem(id, route))

    def _end_call(self, arguments):
        if isinstance(self.item, CustomCallItem):
            self.index += 1
            yield from self._number(self.item.write(arguments))
            self._keep("completed")
        else:
            yield from self._number(self.item.finish(arguments))
            yield from self._close("completed")

    def _drop_call(self):
        if isinstance(self.item, CallItem):
            yield from self._number(self.item.close("incomplete"))
        self.item = None

    def _open(self, item):
        yield from self._close("completed")
        self.item = item
        self.index += 1
        yield from self._number(item.open())

    def _close(self, status):
        if self.item is not None:
            yield from self._number(self.item.close(status))
            self._keep(status)

    def _keep(self, status):
        body = {"id": self._item_id(), **self.item.body(status)}
        self.response["output"].append(body)
        self.item = None

    def _item_id(self):
        return f"{self.item.prefix}{self.token}{self.index}"

    def _number(self, events):
        """The item's events with numbers and identifiers."""
        for kind, fields in events:
            if "item" in fields:
                more = {"item": {"id": self._item_id(), **fields["item"]}}
            else:
                more = {"item_id": self._item_id(), **fields}
            yield self._event(kind, output_index=self.index, **more)
