"""Text in, GenerationResponses out: mlx-lm's generate API over the loop.

Owns which tokens of a round the caller was handed. Does not
touch a model or a cache (see decoding/loop.py) and keeps no counters (see stats.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from .cache.prompt_cache import PromptCache
from .decoding.loop import decode_steps
from .decoding.requests import ChunkPassed, Request, only
from .decoding.sampling import LogitsProcessor, Sampler
from .errors import OptionError
from .pair import Pair
from .responses import Answer, GenerationResponse
from .speculation.company import Company
from .stats import UNDRAFTED, Stats
from .text.detokenizer import CONTEXT, Detokenizer
from .text.prompt import Prompt, check_text_only, encode
from .text.stream import TextStream
from .tuning.calibrate import recheck
from .types import KVBits, Round, Sampling

if TYPE_CHECKING:
    from .text.grammar import Grammar


def answer_steps(
    pair: Pair,
    tokenizer: Any,
    prompt: Prompt,
    *,
    max_tokens: int = 256,
    sampling: Sampling = Sampling(),
    block_size: int | None = None,
    speculate: bool = True,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    sampler: Sampler | None = None,
    stop: str | Sequence[str] | None = (),
    prompt_cache: PromptCache | None = None,
    prefill_step_size: int = 2048,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 5000,
    prompt_progress_callback: Callable[[int, int], None] | None = None,
    grammar: Grammar | None = None,
    company: Company | None = None,
) -> Iterator[GenerationResponse | Request | ChunkPassed]:
    """Generate text and yield one response per token.

    Args:
        pair: From `load` or `Pair.of`.
        tokenizer: mlx-lm's TokenizerWrapper, or a Hugging Face tokenizer.
        prompt: As in `encode`. With a `prompt_cache`, the whole conversation, or only
            what follows the cache's text; see PromptCache.new_tokens.
        max_tokens: Most tokens to generate; -1 for as many as the context allows.
        sampling: Temperature, filters, penalties, seed.
        block_size: Rows of a block, the anchor included. None chooses a width for each
            round by measurement; 1 drafts nothing.
        speculate: False for plain decoding.
        logits_processors, sampler: In mlx-lm's form; see sampling.Chooser. A block
            calls a processor once for each of its rows, rejected drafts included, so
            its result must depend on its two arguments only: one that counts its calls
            or keeps a state needs `speculate=False`.
        stop: Strings that end the answer. They are not part of it.
        prompt_cache: Caches to continue from. The answer is added to them.
        prefill_step_size: Prompt tokens per pass.
        max_kv_size: Most rows that a layer keeps, if no `prompt_cache` is given.
        kv_bits, kv_group_size, quantized_kv_start: KV cache quantization.
        prompt_progress_callback: Called with (prompt tokens done, all of them).
        grammar: What the answer may look like. Each token is then the best legal one;
            the answer ends with "stop" when it is complete.
        company: As in loop.decode_steps.

    Yields:
        A GenerationResponse per token. The last one has a finish_reason. Of
        `answer_steps` also what decode_steps yields beside rounds.

    Raises:
        DFlashError: Before the first response, or later in another thread than the one
            that took it. A pair and a prompt_cache may be used in any thread.
        GrammarError: The grammar allows no token where the answer has come to.
    """
    if not isinstance(tokenizer, TokenizerWrapper):
        tokenizer = TokenizerWrapper(tokenizer)
    check_sampling(sampling)
    ids = encode(tokenizer, prompt)
    if isinstance(prompt_cache, PromptCache):
        ids = prompt_cache.new_tokens(ids)
    check_text_only(pair.target.config, ids)
    _, reason = engine_of(pair, speculate, block_size)
    stats = Stats("plain", reason or UNDRAFTED)
    stats.prompt_tokens = len(ids)
    stop = (stop,) if isinstance(stop, str) else tuple(stop or ())
    before = text_before(prompt_cache)
    text = TextStream(Detokenizer(tokenizer, [*before, *ids]), stop)
    answer = Answer(text, tokenizer.eos_token_ids, stats)
    steps = decode_steps(
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
        grammar=grammar,
        company=company,
    )
    with pair.wired(), contextlib.closing(steps):
        answer.start_clock()
        for round in steps:
            if not isinstance(round, Round):
                yield round  # a request
                continue
            alone = company is None or company.is_alone
            seconds = answer.elapsed()
            if alone and answer.is_stall(seconds):
                pair.drop_kernels(f"a round took {seconds:.0f} s")
            stats.kernels = pair.kernels_in_service
            if not stats.tokens and prompt_cache is not None:
                stats.cached_tokens = len(prompt_cache.text) - len(ids) - 1
            at = stats.cached_tokens + len(ids) + stats.tokens
            # An answer that cannot draft is not compared with plain decoding, and one
            # in company shares its time.
            compared = alone and not reason
            plain = pair.history.costs.plain_seconds(at) if compared else None
            responses = answer.responses(round, seconds, plain)
            yield from hand_out(responses, len(round.tokens), prompt_cache)
            answer.start_clock()
    recheck(pair)
    pair.after_answer()


stream_generate = only(GenerationResponse, answer_steps, "stream_generate")


def check_sampling(sampling: Sampling) -> None:
    """Raise OptionError unless `sampling` is a Sampling."""
    if not isinstance(sampling, Sampling):
        raise OptionError(
            f"sampling must be a Sampling, but is {sampling!r}.",
            "Pass for example sampling=Sampling(temp=0.7).",
        )


def text_before(cache: PromptCache | None) -> list[int]:
    """The last tokens of a cache's text; `decode` refuses other kinds of cache."""
    if not isinstance(cache, PromptCache):
        return []
    cache.release()
    return cache.text[-CONTEXT:]


def hand_out(
    responses: Iterator[GenerationResponse], count: int, cache: PromptCache | None
) -> Iterator[GenerationResponse]:
    """Yield the responses of a round, while its decoding knows how many are left.

    So a cache whose decoding is closed in the middle of a round holds the tokens that
    the caller was handed, and no others.

    Args:
        responses: The responses.
        count: Their number.
        cache: The caller's cache, owned by the decoding.

    Raises:
        OptionError: Another decoding has taken over the cache.
    """
    if cache is None:
        yield from responses
        return
    owner = cache.owner
    owner.unseen = count
    for response in responses:
        owner.check_owner()
        owner.unseen -= 1
        yield response


def engine_of(pair: Pair, speculate: bool, block_size: int | None) -> tuple[str, str]:
    """The engine for these options ("dflash" or "plain"), and why if it is plain."""
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
    prompt: Prompt,
    *,
    verbose: bool = False,
    **options: Any,
) -> str:
    """Generate an answer and return its text.

    Args:
        pair, tokenizer, prompt: As in stream_generate.
        verbose: Print the text while it is generated, then mlx-lm's summary lines.
        options: stream_generate's keyword arguments.

    Raises:
        DFlashError: As in stream_generate, or an option is a field of Sampling.
    """
    for name in options.keys() & {each.name for each in fields(Sampling)}:
        raise OptionError(
            f"{name} is a field of Sampling.",
            f"Pass sampling=Sampling({name}={options[name]!r}).",
        )
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
    """The three lines that mlx-lm prints after an answer, and those about the prompt
    cache and drafting."""
    stats = response.stats
    lines = [
        f"Prompt: {response.prompt_tokens} tokens, "
        f"{response.prompt_tps:.3f} tokens-per-sec",
        f"Generation: {response.generation_tokens} tokens, "
        f"{response.generation_tps:.3f} tokens-per-sec",
        f"Peak memory: {response.peak_memory:.3f} GB",
    ]
    if cached := stats.cached_tokens:
        whole = cached + stats.prompt_tokens
        lines.append(f"Cache: {cached} of {whole} prompt tokens")
    if stats.engine == "plain":
        return [*lines, f"DFlash: off ({stats.reason})"]
    share = stats.accepted / stats.drafted if stats.drafted else 0.0
    line = (
        f"{stats.tokens_per_round:.2f} tokens per round, "
        f"{share:.0%} of {stats.drafted} drafts accepted"
    )
    if n := stats.lookup_rounds:
        line += f", {n} round{'s' * (n > 1)} from prompt lookup"
    if (gain := stats.shown_speedup) is not None:
        line += f", about {gain:.1f} times plain decoding"
    elif stats.speedup is not None:
        line += ", too short to compare with plain decoding"
    return [*lines, f"DFlash: {line}"]
