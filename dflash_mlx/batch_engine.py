"""Many prompts in, their texts out: mlx-lm's batch_generate over shared passes.

Owns the order in which prompts join and the result. Does not know how passes are shared
(decoding/batch.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from .cache.prompt_cache import PromptCache
from .decoding.batch import Batch, Member
from .engine import answer_steps
from .errors import OptionError
from .pair import Pair
from .responses import GenerationResponse
from .stats import Stats
from .text.prompt import Prompt
from .types import Sampling, require

# Texts that share passes, unless the caller says otherwise: mlx-lm's size of a prefill
# batch.
CONCURRENT = 8


@dataclass
class BatchStats:
    """What all answers took together, in mlx-lm's names, and their rounds.

    Args:
        prompt_tokens: Tokens of the prompts that were passed.
        generation_tokens: Tokens of the answers.
        wall_time: Seconds.
        peak_memory: In GB.
        rounds: The counters of all answers.
    """

    prompt_tokens: int = 0
    generation_tokens: int = 0
    wall_time: float = 0.0
    peak_memory: float = 0.0
    rounds: Stats = field(default_factory=Stats)

    @property
    def generation_tps(self) -> float:
        """Tokens of the answers per second, the prompts' time included."""
        return self.generation_tokens / self.wall_time if self.wall_time else 0.0


@dataclass
class BatchResponse:
    """The answers to prompts, in their order; the fields are mlx-lm's.

    Args:
        texts: Of each answer.
        stats: Of all.
        caches: The caches with prompts and answers, if they were asked for.
        token_ids: Of each answer, if they were asked for.
        logprobs: Of each token, if they were asked for.
        finish_reasons: "stop" or "length", of each answer.
    """

    texts: list[str]
    stats: BatchStats
    caches: list[PromptCache] | None = None
    token_ids: list[list[int]] | None = None
    logprobs: list[list[float]] | None = None
    finish_reasons: list[str] = field(default_factory=list)


@dataclass
class Reply:
    """One answer so far."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    last: GenerationResponse | None = None

    def add(self, response: GenerationResponse, logprobs: bool) -> None:
        """Add a response."""
        self.text += response.text
        self.tokens.append(response.token)
        if logprobs:
            self.logprobs.append(response.logprobs[response.token].item())
        self.last = response


def batch_generate(
    pair: Pair,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    prompt_caches: Sequence[PromptCache] | None = None,
    max_tokens: int | Sequence[int] = 128,
    verbose: bool = False,
    return_prompt_caches: bool = False,
    return_token_ids: bool = False,
    return_logprobs: bool = False,
    *,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    block_size: int | None = None,
    speculate: bool = True,
    stop: str | Sequence[str] | None = (),
    prefill_step_size: int = 2048,
    max_concurrent: int = CONCURRENT,
    progress: Callable[[int, int], None] | None = None,
) -> BatchResponse:
    """Answer prompts, several at once in shared passes. Each says what it says alone.

    Args:
        pair, tokenizer: From `load`.
        prompts: Each as in `stream_generate`.
        prompt_caches: One for each prompt; the answers are added to them.
        max_tokens: Most tokens of an answer, or of each.
        verbose: Print progress and speeds, as mlx-lm does.
        return_prompt_caches, return_token_ids, return_logprobs: Fill these fields of
            the result.
        sampling: How tokens are chosen, or how in each answer.
        block_size, speculate, stop, prefill_step_size: As in stream_generate.
        max_concurrent: Most answers that share passes; the others wait.
        progress: Called with (answers done, all of them).

    Returns:
        The answers, in the order of the prompts.

    Raises:
        DFlashError: A prompt or an option is refused; no answer is returned then.
    """
    count = len(prompts)
    require(max_concurrent >= 1, "max_concurrent", "1 or more", max_concurrent)
    limits = one_each(max_tokens, count, "max_tokens")
    chosen = one_each(sampling, count, "sampling")
    keep = return_prompt_caches and prompt_caches is None
    made = [PromptCache(pair) for _ in prompts] if keep else [None] * count
    caches = one_each(made if prompt_caches is None else prompt_caches, count, "caches")
    batch, replies = Batch(), [Reply() for _ in prompts]

    def join(i: int) -> Member:
        steps = answer_steps(
            pair,
            tokenizer,
            prompts[i],
            max_tokens=limits[i],
            sampling=chosen[i],
            block_size=block_size,
            speculate=speculate,
            stop=stop,
            prompt_cache=caches[i],
            prefill_step_size=prefill_step_size,
            company=batch.company,
        )
        return batch.add(steps, len(prompts[i]))

    begun, done = time.perf_counter(), 0
    waiting, members = list(range(count))[::-1], {}
    try:
        while waiting or batch.members:
            while waiting and len(batch.members) < max_concurrent:
                i = waiting.pop()
                members[join(i)] = i
            for member, responses in batch.turn():
                for response in responses:
                    replies[members[member]].add(response, return_logprobs)
                if member.error is not None:
                    raise member.error
                done += member.ended
                if member.ended:
                    report(done, count, verbose, progress)
    finally:
        for member in list(batch.members):
            batch.remove(member)
    stats = total(replies, time.perf_counter() - begun)
    if verbose:
        print(f"[batch_generate] Prompt: {stats.prompt_tokens} tokens")
        print(
            f"[batch_generate] Generation: {stats.generation_tokens} tokens, "
            f"{stats.generation_tps:.3f} tokens-per-sec"
        )
    return BatchResponse(
        [reply.text for reply in replies],
        stats,
        caches if return_prompt_caches else None,
        [reply.tokens for reply in replies] if return_token_ids else None,
        [reply.logprobs for reply in replies] if return_logprobs else None,
        [reply.last.finish_reason for reply in replies],
    )


def one_each(value: Any, count: int, name: str) -> list[Any]:
    """`value` for each of `count` prompts; a list or tuple has one for each already.

    Raises:
        OptionError: It has another length.
    """
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise OptionError(
            f"{name} has {len(value)} values for {count} prompts.",
            "Pass one for each, or one for all.",
        )
    return list(value)


def report(
    done: int, count: int, verbose: bool, progress: Callable[[int, int], None] | None
) -> None:
    """Tell how many answers have ended."""
    if progress is not None:
        progress(done, count)
    if verbose:
        print(f"[batch_generate] Finished processing {done}/{count} ...", end="\r")


def total(replies: Sequence[Reply], seconds: float) -> BatchStats:
    """The counters of all answers."""
    stats = BatchStats(wall_time=seconds, peak_memory=mx.get_peak_memory() / 1e9)
    for reply in replies:
        stats.prompt_tokens += reply.last.prompt_tokens
        stats.generation_tokens += reply.last.generation_tokens
        stats.rounds.add(reply.last.stats)
    return stats
