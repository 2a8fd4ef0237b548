"""The loop: token ids in, Rounds of the target's own choices out.

Owns the round: draft, verify, choose, cut, commit. Knows nothing of text,
tokenizers, clocks or files. A round is yielded only after its commit, so a caller may
close the generator at any time; the caches then hold exactly what was yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from ..cache.prompt_cache import PromptCache
from ..errors import OptionError, PromptError
from ..metal.dispatch import MOST_ROWS
from ..metal.gate import FAILURES, first_line
from ..pair import Pair
from ..speculation.controller import Controller, Fixed
from ..speculation.lookup import Lookup
from ..types import (
    KVBits,
    Round,
    Sampling,
    check_block_size,
    require,
)
from .passes import Decoding
from .planner import Planner, Progress
from .sampling import Chooser, LogitsProcessor, Sampler

EXACT = f"{MOST_ROWS} or less with --exact"

Scan = Callable[[list[int]], "int | None"]


def decode(
    pair: Pair,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int = 256,
    sampling: Sampling = Sampling(),
    block_size: int | None = None,
    speculate: bool = True,
    stop_ids: Collection[int] = (),
    scan: Scan | None = None,
    logits_processors: Sequence[LogitsProcessor] | None = None,
    sampler: Sampler | None = None,
    prompt_cache: PromptCache | None = None,
    prefill_step_size: int = 2048,
    max_kv_size: int | None = None,
    kv: KVBits = KVBits(),
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Round]:
    """Decode what the target would say, a block at a time.

    Args:
        pair: Target and drafter; without a drafter every round has one row.
        prompt_ids: The tokens behind what `prompt_cache` holds.
        max_tokens: Most tokens to produce; -1 for as many as the context allows.
        sampling: How the target chooses.
        block_size: Rows of a block, the anchor included; None is what measurements
            find best, round by round; 1 means no drafting.
        speculate: False decodes plainly.
        stop_ids: Tokens that end the text; the one that did is the last token.
        scan: Called once with each round's tokens before they are committed;
            returns how many of them, 1 or more, to keep when the text ends there,
            else None.
        logits_processors, sampler: As in sampling.Chooser.
        prompt_cache: Caches to go on with; they are left holding the whole text.
        prefill_step_size: Prompt rows per pass.
        max_kv_size: As in PromptCache, where none is given.
        kv: Quantization of the target's KV cache.
        progress: Called with (prompt rows done, all of them), first with 0 done.

    Yields:
        Rounds, the first with the one token that prefill gives.

    Raises:
        PromptError, OptionError: Before anything is computed.
    """
    check_block_size(block_size)
    require(prefill_step_size >= 1, "prefill_step_size", ">= 1", prefill_step_size)
    cache = usable(pair, prompt_cache, max_kv_size)
    pair.target.check_kv(kv, cache.target)
    ids = cache.tail + list(prompt_ids)
    left = token_limit(pair, len(cache.tokens), len(ids), max_tokens)
    chooser = Chooser(sampling, logits_processors, sampler)
    drafting = speculate and pair.drafter is not None and block_size != 1
    if pair.target.exact:
        require((block_size or 1) <= MOST_ROWS, "block_size", EXACT, block_size)
    state = Decoding(pair, cache, chooser, kv, drafting)
    text = cache.tokens + ids
    course = Progress(text, len(text), left)
    steering = steered(pair, course, block_size if drafting else 1)
    scan, progress = (calling(course, called) for called in (scan, progress))
    start = partial(state.prefill, ids, prefill_step_size, progress)
    try:
        while True:
            # One of them may be dropped while its work is under way.
            kernels = pair.kernels_in_service
            try:
                yield from _rounds(state, steering, start, stop_ids, scan)
                return
            except FAILURES as error:
                # The GPU's verdict on a kernel; without kernels it is somebody else's.
                if course.outside:
                    raise
                if not (pair.drop_kernels(first_line(error)) or kernels):
                    raise
            start = partial(state.restart, text, course.given, prefill_step_size)
    finally:
        state.close()


def steered(pair: Pair, course: Progress, block_size: int | None) -> Planner:
    """Rounds as a block size asks for, or as measurements do where it is None."""
    most = MOST_ROWS if pair.target.exact else course.left
    if block_size is not None:
        return Planner(Fixed(block_size), course, most)
    controller = Controller(pair.drafter.block_size, pair.history)
    return Planner(controller, course, most, Lookup(course.text))


def calling(course: Progress, function: Callable | None) -> Callable | None:
    """A caller's function, told apart: what it raises says nothing of a kernel."""

    def call(*args):
        course.outside = True
        result = function(*args)
        course.outside = False
        return result

    return function and call


def _rounds(state, steering, start, stop_ids, scan) -> Iterator[Round]:
    """Rounds from the flight that `start` gives; what is told is in the course."""
    course = steering.course
    steering.begin()
    flight = start()
    while not course.ended:
        # What follows a single row is known before it is read, so the next
        # single row is sent off first: plain decoding, pipelined as mlx-lm's.
        ahead = None
        if flight.width <= 1 and course.left > 1 and steering.streams():
            ahead = state.send(flight.choices)
        tokens, accepted = flight.read()
        tokens, ended = cut(tokens[: course.left], stop_ids, scan)
        course.take(tokens, ended)
        block = failed = None
        try:
            state.commit(flight, tokens)
        except FAILURES as error:  # after `scan` has seen them, tokens are told
            failed = error
        round = steering.report(flight, tokens, accepted)
        flight = ahead  # what the round needed is let go before it is told
        if flight is None and failed is None and not course.ended:
            # Drafted while the caller uses the round; caches do not change by it.
            try:
                block = steering.draft(state)
            except BaseException as error:  # what is committed is told first
                failed = error
        with steering.watch.paused():
            yield round
        if failed is not None:
            raise failed
        if not course.ended:
            flight = flight or steering.send(state, block)


def usable(
    pair: Pair, cache: PromptCache | None, max_kv_size: int | None = None
) -> PromptCache:
    """A caller's cache, if decoding can go on from it; a fresh one for None.

    Raises:
        OptionError: It is of another kind, another pair's, broken, or bounded
            otherwise.
    """
    if cache is None:
        return PromptCache(pair, max_kv_size)
    if not isinstance(cache, PromptCache):
        raise OptionError(
            f"prompt_cache must be a dflash_mlx.PromptCache, not a "
            f"{type(cache).__name__}.",
            "Make one with PromptCache(pair).",
        )
    cache.release()
    if not cache.fits(pair):
        raise OptionError(
            "This prompt_cache belongs to another pair.", "Make one with this pair."
        )
    if max_kv_size not in (None, cache.max_kv_size):
        raise OptionError(
            f"This prompt_cache was made with max_kv_size {cache.max_kv_size}, not "
            f"{max_kv_size}.",
            "Give max_kv_size to PromptCache.",
        )
    if cache.broken:
        raise OptionError(
            "This prompt_cache was interrupted where its model cannot be rolled back.",
            "Call its reset(), or reuse(prompt) with the whole prompt.",
        )
    return cache


def token_limit(pair: Pair, held: int, fed: int, max_tokens: int) -> int:
    """How many tokens may follow a prompt: `max_tokens` (-1 is no limit), or less
    where the model's context ends.

    Args:
        pair: Whose target's context counts.
        held: Tokens that the caches hold.
        fed: Tokens to pass behind them; there must be one.
        max_tokens: Most tokens asked for.

    Raises:
        PromptError: Nothing is fed, or there is no room behind it.
        OptionError: max_tokens is 0 or below -1.
    """
    require(max_tokens == -1 or max_tokens > 0, "max_tokens", "-1 or > 0", max_tokens)
    if fed == 0:
        raise PromptError("The prompt is empty.", "Give it at least one token.")
    context = pair.target.context
    room = 2**62 if context is None else context - held - fed
    if room <= 0:
        raise PromptError(
            f"The prompt has {held + fed} tokens, but the model's context ends at "
            f"{context}.",
            "Shorten it.",
        )
    return room if max_tokens == -1 else min(max_tokens, room)


def cut(
    tokens: list[int], stop_ids: Collection[int], scan: Scan | None
) -> tuple[list[int], bool]:
    """Tokens up to where the text ends, and whether it ends in them."""
    ended = False
    for i, token in enumerate(tokens):
        if token in stop_ids:
            tokens, ended = tokens[: i + 1], True
            break
    keep = scan(tokens) if scan else None
    return (tokens, ended) if keep is None else (tokens[:keep], True)
