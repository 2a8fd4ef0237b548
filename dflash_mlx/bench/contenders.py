"""Who answers in a benchmark on this machine: plain, DFlash, stock mlx-lm.

Each gives an Answer with its own clock around the same stream that users read. Knows
nothing of prompts' classes, of medians or of tables; a server is remote.py's.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx_lm
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..engine import GenerationResponse, stream_generate
from ..pair import Pair
from ..stats import Stats
from ..types import Sampling

PLAIN, MLX_LM = "plain", "mlx-lm"


@dataclass(frozen=True)
class Request:
    """A prompt as a contender gets it.

    Args:
        ids: Token ids; empty where only servers are asked.
        text: The user's message, for servers.
        max_tokens: Most tokens of the answer.
        sampling: With a seed.
        endless: Tokens that end a text do not end the answer.
    """

    ids: list[int]
    text: str
    max_tokens: int
    sampling: Sampling
    endless: bool = False


@dataclass(frozen=True)
class Answer:
    """What came, and when.

    Args:
        tokens: Its ids.
        count: How many tokens it has, as far as is known.
        first: Seconds until the first token.
        seconds: Seconds from there to the last one.
        peak: Most bytes that MLX held; None for a server.
        stats: Ours only.
        counted: Who counted the tokens.
    """

    tokens: list[int]
    count: int
    first: float
    seconds: float
    peak: int | None = None
    stats: Stats | None = None
    counted: str = "stream"

    @property
    def speed(self) -> float | None:
        """Tokens per second behind the first one; None where none came behind it."""
        if self.count < 2 or self.seconds <= 0:
            return None
        return (self.count - 1) / self.seconds


class Contender(Protocol):
    """Someone who answers.

    Attributes:
        name: What was asked for: plain, auto, 8, mlx-lm, server.
    """

    name: str

    def answer(self, request: Request) -> Answer:
        """Answer once, measured."""

    def follows(self, temp: float) -> bool:
        """Whether its tokens must be plain decoding's with the same seed."""


@dataclass(frozen=True)
class Ours:
    """Our stream_generate.

    Args:
        pair, tokenizer: As there.
        name: What it is called.
        block_size: Rows of a block; None leaves the choice to the engine.
        speculate: False is plain decoding.
    """

    pair: Pair
    tokenizer: TokenizerWrapper
    name: str
    block_size: int | None = None
    speculate: bool = True

    def answer(self, request: Request) -> Answer:
        """As Contender.answer."""
        return measured(
            stream_generate(
                self.pair,
                reading(self.tokenizer, request),
                request.ids,
                max_tokens=request.max_tokens,
                sampling=request.sampling,
                block_size=self.block_size,
                speculate=self.speculate,
            )
        )

    def follows(self, temp: float) -> bool:
        """As Contender.follows: our noise belongs to a position."""
        return True


@dataclass(frozen=True)
class Stock:
    """mlx_lm.stream_generate, on the same weights."""

    pair: Pair
    tokenizer: TokenizerWrapper
    name: str = MLX_LM

    def answer(self, request: Request) -> Answer:
        """As Contender.answer."""
        sampling = request.sampling
        mx.random.seed(sampling.seed or 0)
        return measured(
            mlx_lm.stream_generate(
                self.pair.model,
                reading(self.tokenizer, request),
                request.ids,
                max_tokens=request.max_tokens,
                sampler=make_sampler(
                    temp=sampling.temp,
                    top_p=sampling.top_p,
                    min_p=sampling.min_p,
                    top_k=sampling.top_k,
                ),
            )
        )

    def follows(self, temp: float) -> bool:
        """As Contender.follows: its noise is another."""
        return temp == 0


def reading(tokenizer: TokenizerWrapper, request: Request) -> TokenizerWrapper:
    """The tokenizer, or a copy in which no token ends a text."""
    if not request.endless:
        return tokenizer
    endless = copy.copy(tokenizer)
    endless.eos_token_ids = set()
    return endless


def measured(responses: Iterable[Any]) -> Answer:
    """Read an answer's responses, one a token, by the clock."""
    mx.reset_peak_memory()
    tokens, start, first = [], time.perf_counter(), 0.0
    for response in responses:
        first = first or time.perf_counter()
        tokens.append(response.token)
    end = time.perf_counter()
    stats = response.stats if isinstance(response, GenerationResponse) else None
    return Answer(
        tokens, len(tokens), first - start, end - first, mx.get_peak_memory(), stats
    )
