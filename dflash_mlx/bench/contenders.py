"""The contenders of a benchmark on this machine: dflash-mlx and stock mlx-lm.

Owns the request and the timed answer. Each contender runs the same stream that users
read, and its clock is outside that stream. Does not know prompt classes, medians or
tables; a server is a contender too (remote.py).
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

from ..engine import stream_generate
from ..pair import Pair
from ..responses import GenerationResponse
from ..stats import Stats
from ..types import Sampling

PLAIN, MLX_LM = "plain", "mlx-lm"


@dataclass(frozen=True)
class Request:
    """A prompt with the options of its answer.

    Args:
        ids: Token ids of the prompt; empty if only a server is measured.
        text: The user's message, for servers.
        max_tokens: Maximum number of tokens in the answer.
        sampling: Sampling options, with a seed.
        endless: Do not stop at end-of-text tokens.
    """

    ids: list[int]
    text: str
    max_tokens: int
    sampling: Sampling
    endless: bool = False


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, and how long they took.

    Args:
        tokens: Token ids.
        count: Number of tokens; a server may report another number than len(tokens).
        first_token: Seconds to the first token.
        seconds: Seconds from the first token to the last.
        peak: Most bytes that MLX held; None for a server.
        stats: Counters of dflash-mlx; None for other contenders.
        counted: What counted the tokens: stream, server or tokenizer.
    """

    tokens: list[int]
    count: int
    first_token: float
    seconds: float
    peak: int | None = None
    stats: Stats | None = None
    counted: str = "stream"

    @property
    def speed(self) -> float | None:
        """Tokens per second after the first token; None for fewer than two tokens."""
        if self.count < 2 or self.seconds <= 0:
            return None
        return (self.count - 1) / self.seconds


class Contender(Protocol):
    """An engine that a benchmark measures.

    Attributes:
        name: plain, auto, a block size such as 8, mlx-lm or server.
    """

    name: str

    def answer(self, request: Request) -> Answer:
        """Answer a request, and measure it."""

    def must_match_plain(self, temp: float) -> bool:
        """Whether the tokens must equal plain decoding's with the same seed."""


@dataclass(frozen=True)
class OwnEngine:
    """The stream_generate of dflash-mlx, with or without drafts.

    Args:
        pair, tokenizer: As in stream_generate.
        name: Name of the contender.
        block_size: Rows of a block; None lets the engine choose.
        speculate: False decodes plainly.
    """

    pair: Pair
    tokenizer: TokenizerWrapper
    name: str
    block_size: int | None = None
    speculate: bool = True

    def answer(self, request: Request) -> Answer:
        """As Contender.answer."""
        return time_answer(
            stream_generate(
                self.pair,
                tokenizer_for(request, self.tokenizer),
                request.ids,
                max_tokens=request.max_tokens,
                sampling=request.sampling,
                block_size=self.block_size,
                speculate=self.speculate,
            )
        )

    def must_match_plain(self, temp: float) -> bool:
        """As Contender.must_match_plain: noise depends on seed and position only."""
        return True


@dataclass(frozen=True)
class StockMlxLm:
    """mlx_lm.stream_generate with the weights of the same target."""

    pair: Pair
    tokenizer: TokenizerWrapper
    name: str = MLX_LM

    def answer(self, request: Request) -> Answer:
        """As Contender.answer."""
        sampling = request.sampling
        mx.random.seed(sampling.seed or 0)
        return time_answer(
            mlx_lm.stream_generate(
                self.pair.model,
                tokenizer_for(request, self.tokenizer),
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

    def must_match_plain(self, temp: float) -> bool:
        """As Contender.must_match_plain: mlx-lm samples with different noise."""
        return temp == 0


def tokenizer_for(request: Request, tokenizer: TokenizerWrapper) -> TokenizerWrapper:
    """The tokenizer, or for an endless answer a copy without end-of-text tokens."""
    if not request.endless:
        return tokenizer
    endless = copy.copy(tokenizer)
    endless.eos_token_ids = set()
    return endless


def time_answer(responses: Iterable[Any]) -> Answer:
    """Consume the responses of an answer, one per token, and time them."""
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
