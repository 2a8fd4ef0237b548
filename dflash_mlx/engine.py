"""Text in, GenerationResponses out: mlx-lm's generate API over the loop.

Owns encoding, detokenization, stop strings and clocks. Decoding itself is loop.py's,
counting stats.py's; nothing here touches a model or a cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from . import device
from .cache.prompt_cache import PromptCache
from .decoding.loop import decode
from .decoding.sampling import LogitsProcessor, Sampler, log_probabilities
from .pair import Pair
from .stats import UNDRAFTED, Stats
from .text.chat_template import unsupported_content
from .text.stream import TextStream
from .tuning.calibrate import recheck
from .types import KVBits, Round, Sampling

# A round that takes this many seconds, and so many times the usual, has met a kernel
# that hangs: some of the fast ones of others have, after minutes (docs/kernels.md).
STALL = 20.0
STALL_RATIO = 20.0


@dataclass
class GenerationResponse:
    """One token of an answer: mlx-lm's fields, and `stats`.

    Args:
        text: The next piece of text; may be empty.
        token: The token.
        from_draft: Whether the drafter had proposed it.
        prompt_tokens, prompt_tps: Prompt length, and tokens per second until the
            first token.
        generation_tokens, generation_tps: Tokens so far, and their rate.
        peak_memory: GB.
        finish_reason: "stop", "length", or None while it goes on.
        stats: The generation's counters, live.
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

    @cached_property
    def logprobs(self) -> mx.array:
        """Log-probabilities [V] that the token was chosen from, on demand."""
        return log_probabilities(self.logits[None])[0]


def encode(tokenizer: TokenizerWrapper, prompt: str | Sequence[int]) -> list[int]:
    """Token ids of a prompt; text gets special tokens unless it begins with one."""
    if not isinstance(prompt, str):
        return prompt.tolist() if isinstance(prompt, mx.array) else list(prompt)
    bos = tokenizer.bos_token
    special = bos is None or not prompt.startswith(bos)
    return tokenizer.encode(prompt, add_special_tokens=special)


def stream_generate(
    pair: Pair,
    tokenizer: Any,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 256,
    sampling: Sampling = Sampling(),
    block_size: int | None = None,
    speculate: bool = True,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    sampler: Sampler | None = None,
    stop: Sequence[str] = (),
    prompt_cache: PromptCache | None = None,
    prefill_step_size: int = 2048,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 5000,
    prompt_progress_callback: Callable[[int, int], None] | None = None,
) -> Iterator[GenerationResponse]:
    """Generate text, one response a token, in order.

    Args:
        pair: From `load` or `Pair.of`.
        tokenizer: mlx-lm's TokenizerWrapper, or a Hugging Face tokenizer.
        prompt: Text or token ids; with a `prompt_cache`, what follows its content.
        max_tokens: Most tokens; -1 for as many as the context allows.
        sampling: Temperature, filters, penalties, seed.
        block_size: Rows of a block; None is what pays best here, round by round; 1
            drafts nothing.
        speculate: False is plain decoding.
        logits_processors, sampler: mlx-lm's forms; see sampling.Chooser.
        stop: Strings that end the answer and are not part of it.
        prompt_cache: Goes on from it, and leaves the answer in it.
        prefill_step_size: Prompt tokens per pass.
        max_kv_size: Most rows that a layer keeps, where no `prompt_cache` is given.
        kv_bits, kv_group_size, quantized_kv_start: KV cache quantization.
        prompt_progress_callback: Called with (tokens done, tokens in all).

    Yields:
        A GenerationResponse per token; the last has a finish_reason.

    Raises:
        DFlashError: Before the first response.
    """
    if not isinstance(tokenizer, TokenizerWrapper):
        tokenizer = TokenizerWrapper(tokenizer)
    ids = encode(tokenizer, prompt)
    check_text(pair.target.config, ids)
    _, reason = engine_of(pair, speculate, block_size)
    stats = Stats("plain", reason or UNDRAFTED)
    stats.prompt_tokens = len(ids)
    stop = (stop,) if isinstance(stop, str) else stop
    text = TextStream(tokenizer.detokenizer, stop)
    answer = Answer(text, tokenizer.eos_token_ids, stats)
    rounds = decode(
        pair,
        ids,
        max_tokens=max_tokens,
        sampling=sampling,
        block_size=block_size,
        speculate=speculate,
        stop_ids=tokenizer.eos_token_ids,
        scan=answer.scan,
        logits_processors=logits_processors,
        sampler=sampler,
        prompt_cache=prompt_cache,
        prefill_step_size=prefill_step_size,
        max_kv_size=max_kv_size,
        kv=KVBits(kv_bits, kv_group_size, quantized_kv_start),
        progress=prompt_progress_callback,
    )
    with device.wired(pair.model), contextlib.closing(rounds):
        answer.wait()
        for round in rounds:
            spent = answer.lap()
            if answer.stalls(spent):
                pair.drop_kernels(f"a round took {spent:.0f} s")
            stats.kernels = pair.kernels_in_service
            if not stats.tokens and prompt_cache is not None:
                stats.cached_tokens = len(prompt_cache.text) - len(ids) - 1
            at = stats.cached_tokens + len(ids) + stats.tokens
            # What never drafts is plain decoding: there is nothing to compare.
            plain = None if reason else pair.history.costs.plain_seconds(at)
            yield from answer.responses(round, spent, plain)
            answer.wait()
    recheck(pair)


class Answer:
    """An answer under way: rounds in, responses out, with their clocks.

    Args:
        text: The text so far.
        eos: Tokens that end it.
        stats: Counters to keep.
    """

    def __init__(self, text: TextStream, eos: set[int], stats: Stats):
        self.text, self.eos, self.stats = text, eos, stats
        self.segments: list[str] = []
        self.stopped = False
        self.since = self.first = 0.0

    def scan(self, tokens: list[int]) -> int | None:
        """Spell a round's tokens; how many to keep if a stop string is complete."""
        for i, token in enumerate(tokens):
            if token in self.eos:
                return None
            segment, self.stopped = self.text.push(token)
            self.segments.append(segment)
            if self.stopped:
                return i + 1
        return None

    def wait(self) -> None:
        """The clock of the next round starts now."""
        self.since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since `wait`."""
        return time.perf_counter() - self.since

    def stalls(self, seconds: float) -> bool:
        """Whether a round of so many seconds is beyond all that came before."""
        rounds = self.stats.seconds_by_width.values()
        usual = sum(spent for _, spent in rounds) / max(self.stats.rounds, 1)
        return self.stats.rounds > 0 and seconds > max(STALL, STALL_RATIO * usual)

    def responses(
        self, round: Round, seconds: float, plain: float | None = None
    ) -> Iterator[GenerationResponse]:
        """A response for each token of a committed round.

        Args:
            round: What came.
            seconds: It took.
            plain: Seconds of a plain round here, if known.
        """
        self.stats.count(round, seconds, plain)
        self.first = self.first or time.perf_counter()
        before = self.stats.tokens - len(round.tokens)
        for i, token in enumerate(round.tokens):
            last = i + 1 == len(round.tokens)
            text, reason = self._end(token, last, round.ended)
            yield GenerationResponse(
                text=text,
                token=token,
                from_draft=i < round.accepted,
                prompt_tokens=self.stats.prompt_tokens,
                prompt_tps=self.stats.prompt_tokens / self.stats.time_to_first_token,
                generation_tokens=before + i + 1,
                generation_tps=(before + i + 1) / (time.perf_counter() - self.first),
                peak_memory=mx.get_peak_memory() / 1e9,
                finish_reason=reason,
                stats=self.stats,
                logits=round.logits[i],
            )

    def _end(self, token, last, ended) -> tuple[str, str | None]:
        """A token's text, and why the answer ends with it, if it does."""
        if self.stopped:
            return self.segments.pop(0), "stop" if last else None
        if token in self.eos:
            return self.text.finish()[0], "stop"
        segment = self.segments.pop(0)
        if not (last and ended):
            return segment, None
        rest, stopped = self.text.finish()
        return segment + rest, "stop" if stopped else "length"


def check_text(config: dict[str, Any], ids: Sequence[int]) -> None:
    """Raise PromptError where a prompt holds a placeholder of something seen or heard.

    Args:
        config: The target's config.json.
        ids: The prompt.
    """
    for kind in ("image", "video", "audio"):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            token = config.get(name)
            if token is not None and token in ids:
                raise unsupported_content(kind)


def engine_of(pair: Pair, speculate: bool, block_size: int | None) -> tuple[str, str]:
    """Which engine answers, and why if it is the plain one."""
    if not speculate:
        return "plain", "drafting is off"
    if pair.drafter is None:
        return "plain", pair.reason
    if block_size == 1:
        return "plain", "block size 1"
    return "dflash", ""


def generate(
    pair: Pair,
    tokenizer: Any,
    prompt: str | Sequence[int],
    *,
    verbose: bool = False,
    **options: Any,
) -> str:
    """Generate a whole answer.

    Args:
        pair, tokenizer, prompt: As in stream_generate.
        verbose: Print the text as it comes, and mlx-lm's summary lines.
        options: stream_generate's keyword arguments.
    """
    if verbose:
        print("=" * 10)
    text, response = "", None
    for response in stream_generate(pair, tokenizer, prompt, **options):
        text += response.text
        if verbose:
            print(response.text, end="", flush=True)
    if verbose:
        print("\n" + "=" * 10)
        print("\n".join(summary(response)))
    return text


def summary(response: GenerationResponse) -> list[str]:
    """mlx-lm's three closing lines, and one for DFlash."""
    stats = response.stats
    lines = [
        f"Prompt: {response.prompt_tokens} tokens, "
        f"{response.prompt_tps:.3f} tokens-per-sec",
        f"Generation: {response.generation_tokens} tokens, "
        f"{response.generation_tps:.3f} tokens-per-sec",
        f"Peak memory: {response.peak_memory:.3f} GB",
    ]
    if stats.engine == "plain":
        return [*lines, f"DFlash: off ({stats.reason})"]
    share = stats.accepted / stats.drafted if stats.drafted else 0.0
    told = (
        f"{stats.tokens_per_round:.2f} tokens per round, "
        f"{share:.0%} of {stats.drafted} drafts accepted"
    )
    if n := stats.lookup_rounds:
        told += f", {n} round{'s' * (n > 1)} from the prompt's own words"
    if stats.speedup is not None:
        told += f", about {stats.speedup:.1f} times plain decoding"
    return [*lines, f"DFlash: {told}"]
