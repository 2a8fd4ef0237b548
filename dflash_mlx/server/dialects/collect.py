"""An answer as a whole, for requests that do not stream.

Owns how events add up. Does not know any dialect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from ..errors import RequestError
from ..events import (
    Content,
    Done,
    Event,
    Failed,
    Finish,
    Part,
    Reasoning,
    Step,
    TokenLogprob,
    Usage,
)


@dataclass
class Call:
    """A tool call. `complete` is False until its end was seen."""

    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass
class Choice:
    """One of the answers to a request."""

    reasoning: str = ""
    content: str = ""
    calls: dict[int, Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def complete_calls(self) -> list[Call]:
        """The calls that can be carried out, in order."""
        return [call for call in self.calls.values() if call.complete]

    def add(self, part: Part) -> None:
        """Add a part of the answer."""
        match part:
            case Reasoning(text):
                self.reasoning += text
            case Content(text):
                self.content += text
            case CallStart(index, id, name):
                self.calls[index] = Call(id, name)
            case CallArguments():
                pass
            case CallEnd(index, arguments):
                self.calls[index].arguments = arguments
                self.calls[index].complete = True
            case CallBroken(raw=raw, truncated=truncated):
                self.content += "" if truncated else raw


class Collected:
    """All choices of a request, and what they cost.

    Attributes:
        events: All events, in order.
        choices: The answers.
        usage: Tokens.
        summary: As in events.Done.
        error: Why the answer failed, or None.
    """

    def __init__(self):
        self.events: list[Event] = []
        self.choices: list[Choice] = []
        self.usage = Usage()
        self.summary: dict[str, Any] = {}
        self.error: RequestError | None = None

    def add(self, event: Event) -> None:
        """Add the next event."""
        self.events.append(event)
        match event:
            case Step(choice, parts, logprobs):
                for part in parts:
                    self.choice(choice).add(part)
                self.choice(choice).logprobs += logprobs
            case Finish(choice):
                self.choice(choice).finish = event
            case Done(usage, summary):
                self.usage, self.summary = usage, summary
            case Failed(error):
                self.error = error

    def choice(self, number: int) -> Choice:
        """A choice, which is added if it is new."""
        while len(self.choices) <= number:
            self.choices.append(Choice())
        return self.choices[number]
