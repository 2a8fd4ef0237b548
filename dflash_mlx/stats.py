"""The counters of an answer.

Owns counting and what is derived from counts. Does not know models or text, and reads
no clock: its caller passes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from .types import Round

# Why an answer is plain although there is a drafter.
UNDRAFTED = "the answer ended before a block was drafted"
PARKED = "drafting is not faster here"
# Compared rounds below which no speedup is given: one slow round would decide it.
FEWEST_COMPARED = 4
# Tokens below which users are shown no speedup: it says little about longer answers.
FEWEST_TOKENS = 50


@dataclass
class Stats:
    """Counters of one answer. They never decrease.

    Attributes:
        engine: "dflash" if a block from the drafter was verified, "lookup" if only
            drafts from prompt lookup were, else "plain".
        reason: Why the engine is "plain" or "lookup", or an empty string.
        rounds: Verify passes. The prefill is not counted.
        drafted, accepted: Drafts up to the end of the text, and drafts kept.
        accepted_at: accepted_at[i] rounds kept at least i + 1 drafts.
        drafted_at: drafted_at[i] rounds had at least i + 1 drafts.
        seconds_by_width: Width -> [rounds, their seconds].
        prompt_tokens: Tokens of the prompt that were passed.
        cached_tokens: Tokens before these, whose rows were in the prompt cache.
        time_to_first_token: Seconds.
        tokens: Tokens produced, including the one that the prefill gives.
        answers: Answers that were counted.
        kernels: Names of the kernels in service after the last round.
        lookup_rounds, lookup_accepted: Rounds with drafts from prompt lookup, and the
            number of these drafts that were kept.
        plain_seconds: Estimated seconds of plain decoding for the same tokens; None if
            the cost of a plain pass is not known.
        compared_rounds, compared_seconds: Rounds in that estimate, and their seconds.
    """

    engine: str = "plain"
    reason: str = ""
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    drafted_at: list[int] = field(default_factory=list)
    seconds_by_width: dict[int, list[float]] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    time_to_first_token: float = 0.0
    tokens: int = 0
    answers: int = 0
    kernels: list[str] = field(default_factory=list)
    lookup_rounds: int = 0
    lookup_accepted: int = 0
    plain_seconds: float | None = None
    compared_rounds: int = 0
    compared_seconds: float = 0.0

    @property
    def parked_rounds(self) -> int:
        """Rounds that verified one row."""
        return int(self.seconds_by_width.get(1, [0, 0.0])[0])

    @property
    def speedup(self) -> float | None:
        """Estimated speed over plain decoding's; None for too few rounds."""
        if self.plain_seconds is None or self.compared_rounds < FEWEST_COMPARED:
            return None
        return self.plain_seconds / self.compared_seconds

    @property
    def shown_speedup(self) -> float | None:
        """`speedup` for users; None for an answer that is too short to compare."""
        return self.speedup if self.tokens >= FEWEST_TOKENS else None

    @property
    def tokens_per_round(self) -> float:
        """The papers' tau: tokens per verify pass, with the bonus token and without the
        token that the prefill gives."""
        return (self.tokens - self.answers) / self.rounds if self.rounds else 0.0

    @property
    def acceptance(self) -> list[float]:
        """The share of drafts kept, by position in the block."""
        pairs = zip(self.accepted_at, self.drafted_at, strict=True)
        return [kept / drafted for kept, drafted in pairs]

    def count(self, round: Round, seconds: float, plain: float | None = None) -> None:
        """Add a round.

        Args:
            round: The round.
            seconds: Its time.
            plain: Seconds of a plain round at this context, if known.
        """
        self.tokens += len(round.tokens)
        if round.width == 0:
            self.time_to_first_token = seconds
            self.answers += 1
            return
        self._label(round)
        judged = round.judged
        self.rounds += 1
        self.drafted += judged
        self.accepted += round.accepted
        more = [0] * (judged - len(self.drafted_at))
        self.drafted_at, self.accepted_at = (
            self.drafted_at + more,
            self.accepted_at + more,
        )
        for i in range(judged):
            self.drafted_at[i] += 1
            self.accepted_at[i] += i < round.accepted
        spent = self.seconds_by_width.setdefault(round.width, [0, 0.0])
        spent[0] += 1
        spent[1] += seconds
        if plain is not None:
            self.plain_seconds = (self.plain_seconds or 0.0) + plain * len(round.tokens)
            self.compared_rounds += 1
            self.compared_seconds += seconds

    def _label(self, round):
        if round.source == "grammar":  # neither the drafter nor lookup
            return
        if round.source == "lookup":
            self.lookup_rounds += 1
            self.lookup_accepted += round.accepted
            if self.engine == "plain":
                self.engine, self.reason = "lookup", PARKED
        elif round.drafted:
            self.engine, self.reason = "dflash", ""
        elif self.reason == UNDRAFTED and self.rounds:
            self.reason = PARKED  # not after one single row: there may be no room

    def add(self, other: Stats) -> None:
        """Add the round and token counters of another answer."""
        for name in ("rounds", "drafted", "accepted", "tokens", "answers"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("accepted_at", "drafted_at"):
            pairs = zip_longest(getattr(self, name), getattr(other, name), fillvalue=0)
            setattr(self, name, [a + b for a, b in pairs])

    def as_dict(self) -> dict[str, Any]:
        """The counters as values for JSON."""
        return {
            "engine": self.engine,
            "reason": self.reason,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "tokens_per_round": self.tokens_per_round,
            "acceptance": self.acceptance,
            "parked_rounds": self.parked_rounds,
            "lookup_rounds": self.lookup_rounds,
            "lookup_accepted": self.lookup_accepted,
            "speedup": self.speedup,
            "cached_tokens": self.cached_tokens,
            "kernels": self.kernels,
            "time_to_first_token": self.time_to_first_token,
            "seconds_by_width": {
                str(width): {"rounds": n, "seconds": s}
                for width, (n, s) in sorted(self.seconds_by_width.items())
            },
        }
