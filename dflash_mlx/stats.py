"""What an answer's rounds were: the counters that every renderer shows.

Knows rounds and seconds; nothing of models, text or where a clock is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from .types import Round

# Why an answer is plain although there is a drafter.
UNDRAFTED = "it ended before a block was drafted"
PARKED = "parked: drafting does not pay here"
# Rounds that an estimate of the speed asks for: of two, one slow one is half.
FEWEST = 4


@dataclass
class Stats:
    """Counters of one generation; none ever decreases.

    Attributes:
        engine: "dflash" once a block of the drafter's was verified, "lookup" where only
            the prompt's own words were proposed, "plain" until then.
        reason: Why plain, or an empty string.
        rounds: Verify passes, the prefill not counted.
        drafted, accepted: Tokens proposed (up to the end of the text), and kept.
        accepted_at: accepted_at[i] rounds kept at least i + 1 drafts.
        drafted_at: drafted_at[i] rounds proposed at least i + 1 drafts.
        seconds_by_width: width -> [rounds, seconds in all].
        lookup_rounds, lookup_accepted: Rounds whose drafts a prompt lookup proposed,
            and how many of those were kept.
        plain_seconds: What the rounds' tokens would have taken plain decoding, by the
            measured cost of its passes; None where nobody measured it.
        compared_rounds, compared_seconds: How many those were, and what they took.
        prompt_tokens, cached_tokens: Tokens of the prompt; of those before it.
        time_to_first_token: Seconds.
        tokens: Tokens produced, the prefill's included.
        answers: Answers that were counted.
        kernels: Names of the kernels that ran at its end.
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
        """Rounds of one row."""
        return int(self.seconds_by_width.get(1, [0, 0.0])[0])

    @property
    def speedup(self) -> float | None:
        """Estimated speed of the rounds against plain decoding; None for too few."""
        if self.plain_seconds is None or self.compared_rounds < FEWEST:
            return None
        return self.plain_seconds / self.compared_seconds

    @property
    def tokens_per_round(self) -> float:
        """The papers' tau: tokens a verify pass gives, the bonus token included and
        the prefill's token not."""
        return (self.tokens - self.answers) / self.rounds if self.rounds else 0.0

    @property
    def acceptance(self) -> list[float]:
        """How often a draft at each position of the block was kept."""
        pairs = zip(self.accepted_at, self.drafted_at, strict=True)
        return [kept / drafted for kept, drafted in pairs]

    def count(self, round: Round, seconds: float, plain: float | None = None) -> None:
        """Add a round.

        Args:
            round: What came.
            seconds: It took.
            plain: Seconds of a plain round here, if known.
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
        if round.source == "lookup":
            self.lookup_rounds += 1
            self.lookup_accepted += round.accepted
            if self.engine == "plain":
                self.engine, self.reason = "lookup", PARKED
        elif round.drafted:
            self.engine, self.reason = "dflash", ""
        elif self.reason == UNDRAFTED and self.rounds:
            self.reason = PARKED  # one single row may be for want of room

    def add(self, other: Stats) -> None:
        """Pool another answer's counters with these."""
        for name in ("rounds", "drafted", "accepted", "tokens", "answers"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("accepted_at", "drafted_at"):
            pairs = zip_longest(getattr(self, name), getattr(other, name), fillvalue=0)
            setattr(self, name, [a + b for a, b in pairs])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
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
