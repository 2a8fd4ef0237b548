"""An answer as Anthropic's message, streamed or whole.

Owns the order of its events and its blocks. Both forms come from the same events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from ..errors import PromptTooLong, RequestError
from ..events import (
    Content,
    Done,
    Event,
    Failed,
    Finish,
    Reasoning,
    Started,
    Step,
    Usage,
)
from ..schema import Request
from .carried import pack_reasoning
from .collect import Collected
from .dialect import named_frame
from .openai import new_id, progress_comment

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}
# Clients keep thinking blocks only with a signature. We accept any.
SIGNATURE = "dflash-mlx"


def error_body(error: RequestError) -> dict[str, Any]:
    """The JSON object of an error."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    message = error.message
    if isinstance(error, PromptTooLong):
        # Claude Code shortens the conversation when it reads these words.
        message = f"prompt is too long: {error.tokens} tokens > {error.limit} maximum"
    kind = ERROR_TYPES.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": message}}


def usage_body(usage: Usage) -> dict[str, Any]:
    """Usage; input_tokens are those that were not read from a cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


class MessageWriter:
    """Writes an answer as events, or as one message.

    Args:
        request: What is answered.
        model: The model's name.
        show_thinking: Send the text of thinking blocks. If not, it is in their
            signatures.
    """

    def __init__(self, request: Request, model: str, show_thinking: bool = True):
        self.request, self.show_thinking = request, show_thinking
        self.message: dict[str, Any] = {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": usage_body(Usage()),
        }
        self.extra: dict[str, Any] = {}  # fields that Anthropic's API does not have
        self.started = False
        self.block: dict[str, Any] | None = None  # the open one
        self.index = -1  # its number in the stream
        self.pieces: list[str] = []  # its text or arguments so far

    def frames(self, event: Event) -> Sequence[str]:
        """As in Writer."""
        return [named_frame(each["type"], each) for each in self._events(event)]

    def keep_alive(self, event: Event | None) -> str:
        """As in Writer. The SDK raises if an event precedes message_start."""
        if not self.started:
            return progress_comment(event)
        return named_frame("ping", {"type": "ping"})

    def body(self, answer: Collected) -> dict[str, Any]:
        """As in Writer."""
        for event in answer.events:
            for _ in self._events(event):
                pass
        return {**self.message, **self.extra}

    def _events(self, event: Event) -> Iterator[dict[str, Any]]:
        match event:
            case Started(prompt_tokens, cached_tokens):
                yield from self._start(Usage(prompt_tokens, cached_tokens))
            case Step(parts=parts):
                for part in parts:
                    yield from self._part(part)
            case Finish():
                yield from self._close()
                self._finish(event)
            case Done(usage, summary):
                self.message["usage"] = usage_body(usage)
                self.extra["dflash"] = summary
                names = ("stop_reason", "stop_sequence", "stop_details")
                delta = {name: self.message[name] for name in names}
                body = {"delta": delta, "usage": self.message["usage"], **self.extra}
                yield {"type": "message_delta", **body}
                yield {"type": "message_stop"}
            case Failed(error):
                yield error_body(error)

    def _start(self, usage):
        if not self.started:
            self.started = True
            self.message["usage"] = usage_body(usage)
            yield {"type": "message_start", "message": self.message}
            yield {"type": "ping"}

    def _finish(self, finish):
        self.message["stop_reason"] = STOP_REASONS[finish.reason]
        if finish.stop_string in self.request.stop:  # not one of the server's
            self.message["stop_reason"] = "stop_sequence"
            self.message["stop_sequence"] = finish.stop_string
        if finish.warnings:
            self.extra["warnings"] = list(finish.warnings)

    def _part(self, part):
        match part:
            case Reasoning(text):
                yield from self._text("thinking", text)
            case Content(text):
                yield from self._text("text", text)
            case CallStart(_, id, name):
                block = {"type": "tool_use", "id": id, "name": name, "input": {}}
                yield from self._open(block)
            case CallArguments(_, fragment):
                yield from self._arguments(fragment)
            case CallEnd(_, arguments):
                yield from self._arguments(arguments[len("".join(self.pieces)) :])
                self.block["input"] = json.loads(arguments)
                yield from self._close()
            case CallBroken(index, raw, _, truncated):
                if index is not None:
                    self.message["content"].pop()  # what follows closes the block
                yield from self._text("text", "" if truncated else raw)

    def _text(self, kind, text):
        if not text:
            return
        if self.block is None or self.block["type"] != kind:
            more = {"signature": ""} if kind == "thinking" else {}
            yield from self._open({"type": kind, kind: "", **more})
        self.pieces.append(text)
        if kind == "text" or self.show_thinking:
            yield self._delta({"type": f"{kind}_delta", kind: text})

    def _arguments(self, fragment):
        if fragment:
            self.pieces.append(fragment)
            delta = {"type": "input_json_delta", "partial_json": fragment}
            yield self._delta(delta)

    def _delta(self, delta):
        return {"type": "content_block_delta", "index": self.index, "delta": delta}

    def _open(self, block: Mapping[str, Any]):
        yield from self._close()
        self.block, self.pieces = dict(block), []
        self.index += 1
        self.message["content"].append(self.block)
        yield {
            "type": "content_block_start",
            "index": self.index,
            "content_block": block,
        }

    def _close(self):
        if self.block is None:
            return
        kind, text = self.block["type"], "".join(self.pieces)
        if kind == "text":
            self.block["text"] = text
        if kind == "thinking":
            signature = SIGNATURE if self.show_thinking else pack_reasoning(text)
            self.block["thinking"] = text if self.show_thinking else ""
            self.block["signature"] = signature
            yield self._delta({"type": "signature_delta", "signature": signature})
        yield from self._stop()

    def _stop(self):
        self.block = None
        yield {"type": "content_block_stop", "index": self.index}
