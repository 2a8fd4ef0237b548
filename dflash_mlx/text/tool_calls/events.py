"""What a tool-call parser reports, in the order of the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """A piece of the answer outside of calls."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins.

    Args:
        index: The number of the call in this answer, from 0.
        id: The id that the model gave the call, or "".
        name: The name of the tool.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """The next piece of a call's arguments.

    Args:
        index: As in CallStart.
        fragment: A piece of one JSON object. All pieces joined are valid JSON.
    """

    index: int
    fragment: str


@dataclass(frozen=True)
class CallEnd:
    """A call is complete.

    Args:
        index: As in CallStart.
        arguments: The JSON object of the arguments: all fragments joined.
    """

    index: int
    arguments: str


@dataclass(frozen=True)
class CallBroken:
    """A call that cannot be delivered.

    Args:
        index: As in CallStart; None if the call was not reported yet.
        raw: The text of the call as the model wrote it, markers included.
        reason: What is wrong, as a clause such as "the text ends inside the call".
        truncated: Whether the text ended inside the call.
    """

    index: int | None
    raw: str
    reason: str
    truncated: bool = False


ToolEvent = Text | CallStart | CallArguments | CallEnd | CallBroken


class BrokenCall(Exception):
    """The text of a call is not what its format prescribes."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class UnfinishedCall(BrokenCall):
    """The text ended inside a call."""

    def __init__(self):
        super().__init__("the text ends inside the call")


class NotACall(Exception):
    """What looked like the beginning of a call is text of the answer."""
