"""The stream of events of one answer, which every dialect renders.

The model's thread makes them, a list at a time; the front passes them to a dialect's
writer. An answer is: Waiting*, Started, Prefilled*, then Steps and a Finish for each
choice, then Done; or Failed at any point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from .errors import RequestError


@dataclass(frozen=True)
class Waiting:
    """The request is in the queue, or its model is being loaded.

    Args:
        ahead: Requests before it.
        loading: The model that is being loaded, or None.
    """

    ahead: int
    loading: str | None = None


@dataclass(frozen=True)
class Started:
    """The prefill of a choice begins.

    Args:
        prompt_tokens: Length of the prompt.
        cached_tokens: Tokens of it that are not computed again.
    """

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Prefilled:
    """A chunk of the prompt was passed: `done` tokens of `total`."""

    done: int
    total: int


@dataclass(frozen=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str


class Piece(NamedTuple):
    """The text of one token, and whether it was an accepted draft."""

    text: str
    drafted: bool


@dataclass(frozen=True)
class Content:
    """Text of the answer.

    Args:
        text: The text.
        pieces: Its tokens' texts, in order; empty where a parser held text back.
    """

    text: str
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer and its logarithmic probability.

    Args:
        token: Its text.
        logprob: Natural logarithm of its probability.
        top: The most likely tokens there, best first, as (text, logprob).
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


Part = Reasoning | Content | CallStart | CallArguments | CallEnd | CallBroken


@dataclass(frozen=True)
class Speed:
    """How fast an answer is.

    Args:
        tokens_per_second: Since the first token; None before the second.
        tokens_per_round: Tokens per verify pass.
        speedup: Over plain decoding; None if too little was measured.
    """

    tokens_per_second: float | None
    tokens_per_round: float
    speedup: float | None


@dataclass(frozen=True)
class Step:
    """What a round added to a choice.

    Args:
        choice: Number of the choice, from 0.
        parts: In order. It may be empty.
        logprobs: Of the answer's tokens, if they were asked for.
        speed: So far.
    """

    choice: int
    parts: tuple[Part, ...]
    logprobs: tuple[TokenLogprob, ...]
    speed: Speed


@dataclass(frozen=True)
class Finish:
    """A choice has ended.

    Args:
        choice: Its number.
        reason: "stop", "length" or "tool_calls".
        stop_string: The stop string that ended it, or None.
        warnings: What was not as it should be, a sentence each.
    """

    choice: int
    reason: str
    stop_string: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    Args:
        prompt_tokens: Length of the prompt.
        cached_tokens: Tokens of it that were not computed again.
        completion_tokens: Of all choices.
        reasoning_tokens: Those of them that belong to the reasoning.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Done:
    """All choices have ended.

    Args:
        usage: Tokens.
        summary: Stats.as_dict() of the last choice, and its tokens_per_second.
    """

    usage: Usage
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """The answer ends here, with an error."""

    error: RequestError


Event = Waiting | Started | Prefilled | Step | Finish | Done | Failed
