"""The reasoning behind recent answers, for clients that do not send it back.

Chat templates keep the reasoning of a tool loop in the prompt. Without it the prompt
would be another one, and the caches of the loop would miss. Does not know templates.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from .dialects.collect import Choice
from .dialects.messages import reasoning_fields, template_call

MOST = 256  # answers


class ReasoningStore:
    """The reasoning of the last answers, by what the answer said and called."""

    def __init__(self):
        self._texts: OrderedDict[str, str] = OrderedDict()

    def put(self, answer: Choice) -> None:
        """Keep the reasoning of an answer, if it has any."""
        if not answer.reasoning:
            return
        calls = [template_call("", c.name, c.arguments) for c in answer.complete_calls]
        key = _key(answer.content, calls)
        self._texts[key] = answer.reasoning
        self._texts.move_to_end(key)
        while len(self._texts) > MOST:
            self._texts.popitem(last=False)

    def restore(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages, with the reasoning that was left out of the assistant's."""
        return [self._restore(dict(message)) for message in messages]

    def _restore(self, message):
        if message["role"] == "assistant" and "reasoning_content" not in message:
            key = _key(message["content"], message.get("tool_calls", ()))
            if text := self._texts.get(key):
                message |= reasoning_fields(text)
        return message


def _key(content, calls):
    named = [
        [each["function"]["name"], each["function"]["arguments"]] for each in calls
    ]
    return json.dumps([content.strip(), named], sort_keys=True)
