"""One answer's rounds as responses, a token each, with mlx-lm's fields.

Owns the text of tokens and the timing of rounds. Does not know how rounds are decoded
(decoding/loop.py) and keeps no counters (stats.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx

from . import device
from .decoding.sampling import log_probabilities
from .stats import Stats
from .text.stream import TextStream
from .types import Round

# A round that takes longer than both limits is taken for a kernel that hangs, as some
# of other projects' fast kernels do after minutes (docs/kernels.md).
STALL_SECONDS = 20.0
STALL_RATIO = 20.0  # over the mean of the rounds before


@dataclass
class GenerationResponse:
    """One token of an answer: mlx-lm's fields, and `stats`.

    Args:
        text: The next piece of text. It may be empty.
        token: The token.
        from_draft: Whether it was a draft that the target accepted.
        prompt_tokens, prompt_tps: Length of the prompt, and its tokens per second until
            the first token.
        generation_tokens, generation_tps: Tokens so far, and tokens per second since
            the first one.
        peak_memory: In GB.
        finish_reason: "stop" or "length" for the last token, else None.
        stats: The counters of this answer, updated with every round.
        logits: [V] the processed logits that the token was chosen from.
        stop_string: The stop string that ended the answer, with its last token.
    """

    text: str
    token: int
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    finish_reason: str | None
    stats: Stats
    logits: mx.array = field(repr=False)
    stop_string: str | None = None

    @cached_property
    def logprobs(self) -> mx.array:
        """Log-probabilities [V] that the token was chosen from, computed on demand."""
        return log_probabilities(self.logits[None])[0]


class Answer:
    """Turns the rounds of one answer into responses, and times them.

    Args:
        text: Receives the tokens.
        eos: Tokens that end the answer.
        stats: Counters to update.
    """

    def __init__(self, text: TextStream, eos: set[int], stats: Stats):
        self.text, self.eos, self.stats = text, eos, stats
        self.segments: list[str] = []  # text of scanned tokens, not in a response yet
        self.stopped = False  # a stop string is complete
        self.round_start = self.first_token_at = 0.0  # seconds of the clock
        self.suspensions = device.SUSPENSIONS.count  # at the start of the round

    def scan(self, tokens: list[int]) -> int | None:
        """Detokenize a round's tokens.

        Returns:
            The number of tokens to keep if a stop string is complete, else None.
        """
        for i, token in enumerate(tokens):
            if token in self.eos:
                return None
            segment, self.stopped = self.text.push(token)
            self.segments.append(segment)
            if self.stopped:
                return i + 1
        return None

    def start_clock(self) -> None:
        """Start timing the next round."""
        self.round_start = time.perf_counter()
        self.suspensions = device.SUSPENSIONS.count

    def elapsed(self) -> float:
        """Seconds since `start_clock`."""
        return time.perf_counter() - self.round_start

    def is_stall(self, seconds: float) -> bool:
        """Whether a round took so much longer than earlier ones that a kernel hangs.

        Not if the program was stopped and continued meanwhile, as by Ctrl-Z.
        """
        if device.SUSPENSIONS.count != self.suspensions:
            return False
        rounds = self.stats.seconds_by_width.values()
        usual = sum(spent for _, spent in rounds) / max(self.stats.rounds, 1)
        most = max(STALL_SECONDS, STALL_RATIO * usual)
        return self.stats.rounds > 0 and seconds > most

    def responses(
        self, round: Round, seconds: float, plain: float | None = None
    ) -> Iterator[GenerationResponse]:
        """Count a committed round and yield a response for each of its tokens.

        Args:
            round: The round.
            seconds: Its time.
            plain: Seconds of a plain round at this context, if known.
        """
        self.stats.count(round, seconds, plain)
        self.first_token_at = self.first_token_at or time.perf_counter()
        before = self.stats.tokens - len(round.tokens)
        for i, token in enumerate(round.tokens):
            last = i + 1 == len(round.tokens)
            text, reason = self._text_of(token, last, round.ended)
            since_first = time.perf_counter() - self.first_token_at
            yield GenerationResponse(
                text=text,
                token=token,
                from_draft=i < round.accepted,
                prompt_tokens=self.stats.prompt_tokens,
                prompt_tps=self.stats.prompt_tokens / self.stats.time_to_first_token,
                generation_tokens=before + i + 1,
                generation_tps=(before + i + 1) / since_first,
                peak_memory=mx.get_peak_memory() / 1e9,
                finish_reason=reason,
                stats=self.stats,
                logits=round.logits[i],
                stop_string=self.text.stop_string if reason else None,
            )

    def _text_of(self, token, last, ended) -> tuple[str, str | None]:
        """The text of a token, and its finish_reason."""
        if self.stopped:
            return self.segments.pop(0), "stop" if last else None
        if token in self.eos:
            return self.text.finish()[0], "stop"
        segment = self.segments.pop(0)
        if not (last and ended):
            return segment, None
        rest, stopped = self.text.finish()
        return segment + rest, "stop" if stopped else "length"
