"""The output items of a response, and the events that make each of them.

Owns the fields and the order of an item's events. Does not know the response.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .carried import pack_reasoning
from .responses_tools import INPUT, Route

# The type of an event and its own fields. The writer adds numbers and identifiers.
ItemEvent = tuple[str, dict[str, Any]]


class MessageItem:
    """A message. Its id begins with "msg_"."""

    prefix = "msg_"

    def __init__(self):
        self.pieces: list[str] = []
        self.logprobs: list[dict[str, Any]] = []

    def open(self) -> Iterator[ItemEvent]:
        """The events that begin it."""
        body = self.body("in_progress")
        yield "response.output_item.added", {"item": {**body, "content": []}}
        part = self._part()
        yield "response.content_part.added", {"content_index": 0, "part": part}

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[ItemEvent]:
        """The events of more text, and of the logprobs of its tokens."""
        self.pieces.append(text)
        self.logprobs += logprobs
        more = {"content_index": 0, "delta": text, "logprobs": logprobs}
        yield "response.output_text.delta", more

    def close(self, status: str) -> Iterator[ItemEvent]:
        """The events that end it."""
        part = self._part()
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.output_text.done", {"content_index": 0, **done}
        yield "response.content_part.done", {"content_index": 0, "part": part}
        yield "response.output_item.done", {"item": self.body(status)}

    def body(self, status: str) -> dict[str, Any]:
        """The item without its id."""
        return {
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [self._part()],
        }

    def _part(self):
        return {
            "type": "output_text",
            "text": "".join(self.pieces),
            "annotations": [],
            "logprobs": list(self.logprobs),
        }


class ReasoningItem:
    """Reasoning, whose text is its summary. Its id begins with "rs_".

    Args:
        carried: Put the text into encrypted_content too, so that it comes back.
    """

    prefix = "rs_"

    def __init__(self, carried: bool):
        self.carried = carried
        self.pieces: list[str] = []

    def open(self) -> Iterator[ItemEvent]:
        """The events that begin it."""
        body = {"type": "reasoning", "status": "in_progress", "summary": []}
        yield "response.output_item.added", {"item": body}
        part = {"summary_index": 0, "part": self._part()}
        yield "response.reasoning_summary_part.added", part

    def add(self, text: str) -> Iterator[ItemEvent]:
        """The events of more text."""
        self.pieces.append(text)
        delta = {"summary_index": 0, "delta": text}
        yield "response.reasoning_summary_text.delta", delta

    def close(self, status: str) -> Iterator[ItemEvent]:
        """The events that end it."""
        part = self._part()
        done = {"summary_index": 0, "text": part["text"]}
        yield "response.reasoning_summary_text.done", done
        done = {"summary_index": 0, "part": part}
        yield "response.reasoning_summary_part.done", done
        yield "response.output_item.done", {"item": self.body(status)}

    def body(self, status: str) -> dict[str, Any]:
        """The item without its id."""
        part = self._part()
        body = {"type": "reasoning", "status": status, "summary": [part]}
        if self.carried:
            body["encrypted_content"] = pack_reasoning(part["text"])
        return body

    def _part(self):
        return {"type": "summary_text", "text": "".join(self.pieces)}


class CallItem:
    """A call of a function. Its id begins with "fc_".

    Args:
        call_id: The call's identifier.
        route: The tool.
    """

    prefix = "fc_"

    def __init__(self, call_id: str, route: Route):
        self.call_id, self.route = call_id, route
        self.pieces: list[str] = []

    def open(self) -> Iterator[ItemEvent]:
        """The events that begin it."""
        yield "response.output_item.added", {"item": self.body("in_progress")}

    def add(self, fragment: str) -> Iterator[ItemEvent]:
        """The events of more arguments, as JSON."""
        self.pieces.append(fragment)
        yield "response.function_call_arguments.delta", {"delta": fragment}

    def finish(self, arguments: str) -> Iterator[ItemEvent]:
        """The events of what is missing of the arguments.

        Args:
            arguments: All of them.
        """
        if rest := arguments[len("".join(self.pieces)) :]:
            yield from self.add(rest)

    def close(self, status: str) -> Iterator[ItemEvent]:
        """The events that end it."""
        body = self.body(status)
        if status == "completed":
            done = {"arguments": body["arguments"], "name": self.route.name}
            yield "response.function_call_arguments.done", done
        yield "response.output_item.done", {"item": body}

    def body(self, status: str) -> dict[str, Any]:
        """The item without its id."""
        return {
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            **self.route.fields(),
            "arguments": "".join(self.pieces),
        }


class CustomCallItem:
    """A call of a custom tool. Its id begins with "ctc_".

    It is written as a whole when it is complete: clients run a custom call without
    looking at its status, and half of a patch or program must not be run.

    Args:
        call_id: The call's identifier.
        route: The tool.
    """

    prefix = "ctc_"

    def __init__(self, call_id: str, route: Route):
        self.call_id, self.route = call_id, route
        self.input = ""

    def write(self, arguments: str) -> Iterator[ItemEvent]:
        """All its events.

        Args:
            arguments: Of the function that stands for the tool, as JSON.
        """
        yield "response.output_item.added", {"item": self.body("in_progress")}
        self.input = custom_input(arguments)
        if self.input:
            delta = {"delta": self.input}
            yield "response.custom_tool_call_input.delta", delta
        yield "response.custom_tool_call_input.done", {"input": self.input}
        yield "response.output_item.done", {"item": self.body("completed")}

    def body(self, status: str) -> dict[str, Any]:
        """The item without its id."""
        return {
            "type": "custom_tool_call",
            "status": status,
            "call_id": self.call_id,
            **self.route.fields(),
            "input": self.input,
        }


def custom_input(arguments: str) -> str:
    """The input of a custom tool from the arguments of its function, as JSON.

    Where the model wrote other arguments, they are the input.
    """
    value = json.loads(arguments)
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
