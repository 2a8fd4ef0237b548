"""The decoding loop: token ids in, Rounds of the target's own choices out.

Owns the checks before an answer and the pipeline: which passes are sent before the
round that needs them. Does not know text, tokenizers or files; a round itself is in
round.py. A Round is yielded only after its commit, so the generator may be closed at
any time: the caches then hold exactly what was yielded.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ..cache.prompt_cache import PromptCache
from ..errors import OptionError, PromptError
from ..metal.kernel import KERNEL_ERRORS, MAX_ROWS
from ..pair import Pair
from ..speculation.company import Company, Seat, SharedController
from ..speculation.controller import Controller, Plan
from ..speculation.costs import DRAFTER
from ..speculation.fixed_width import FixedWidth
from ..speculation.lookup import Lookup
from ..text.prompt import token_ids
from ..types import KVBits, Round, Sampling, check_block_size, require
from .constraint import Constraint, put_first
from .passes import Passes
from .pending import PendingPass
from .planner import Planner
from .prefill import Progress, prefill, restart
from .recovery import Recovery
from .requests import ChunkPassed, DraftRequest, Request, VerifyRequest, only
from .round import Scan, Stops, play_round
from .sampling import Chooser, LogitsProcessor, Sampler

if TYPE_CHECKING:  # llguidance is read when a grammar is made
    from ..text.grammar import Grammar

EXACT_ROWS = f"{MAX_ROWS} or less with --exact"


def decode_steps(
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
    progress: Progress | None = None,
    grammar: Grammar | None = None,
    company: Company | None = None,
) -> Iterator[Round | Request | ChunkPassed]:
    """Decode a block at a time; every token is the target's own choice.

    Args:
        pair: Target and drafter; without a drafter every round has one row.
        prompt_ids: The tokens that follow the content of `prompt_cache`.
        max_tokens: Most tokens to produce; -1 for as many as the context allows.
        sampling: How the target chooses.
        block_size: Rows of a block; None chooses by measurement; 1 drafts nothing.
        speculate: False decodes plainly.
        stop_ids: Tokens that end the text; the one that did is the last token.
        scan: Called with the tokens of each round before they are committed; returns
            the number to keep, 1 or more, if the text ends there, else None.
        logits_processors, sampler: As in sampling.Chooser.
        prompt_cache: Caches to continue from; the answer is added to them.
        prefill_step_size: Prompt rows per pass.
        max_kv_size: As in PromptCache, if no `prompt_cache` is given.
        kv: Quantization of the target's KV cache.
        progress: Called with (prompt rows done, all of them), first with 0 done.
        grammar: What the answer may look like. The tokens that end an answer of its
            tokenizer's model are stop tokens.
        company: The answers that share passes with this one; None for this one alone.

    Yields:
        Rounds; the first has the one token that the prefill gives. Of `decode_steps`
        also requests for passes, which the answer fulfils itself if its caller does
        not, and ChunkPassed after each chunk of the prompt.

    Raises:
        PromptError, OptionError: Before anything is computed.
        OptionError: A round is taken in another thread than the first one.
        GrammarError: The grammar allows no token where the answer has come to.
    """
    check_block_size(block_size)
    require(prefill_step_size >= 1, "prefill_step_size", ">= 1", prefill_step_size)
    prompt_ids = token_ids(prompt_ids)
    cache = prepare_cache(pair, prompt_cache, max_kv_size)
    pair.target.check_kv(kv, cache.target)
    new = len(cache.text) - cache.rows + len(prompt_ids)
    left = token_limit(pair, cache.rows, new, max_tokens)
    pair.target.check_ids(prompt_ids)
    chooser = Chooser(sampling, logits_processors, sampler)
    drafting = speculate and pair.drafter is not None and block_size != 1
    if pair.target.exact:
        require((block_size or 1) <= MAX_ROWS, "block_size", EXACT_ROWS, block_size)
    recovery = Recovery(pair)
    constraint = None
    if grammar is not None:
        constraint = Constraint(grammar.start())
        stop_ids = {*stop_ids, *grammar.vocabulary.eos}
    stops = Stops(stop_ids, recovery.wrap_callback(scan), left)
    keep = prompt_cache is not None
    passes = Passes(pair, cache, prompt_ids, chooser, kv, drafting, keep)
    seat = Seat(pair.history, company)
    planner = make_planner(pair, seat, cache, stops, block_size if drafting else 1)
    pipeline = Pipeline(passes, planner, stops, recovery, seat, constraint)
    yield from _answer(pipeline, prefill_step_size, recovery.wrap_callback(progress))


decode = only(Round, decode_steps, "decode")


def _answer(
    pipeline: Pipeline, step: int, progress: Progress | None
) -> Iterator[Round | Request | ChunkPassed]:
    """Yield the steps of an answer, which start again after a kernel fails."""

    def attempt(again):
        pipeline.planner.reset()
        if again:
            first = yield from restart(pipeline.passes, step)
        else:
            first = yield from prefill(pipeline.passes, step, progress)
        yield from _rounds(pipeline, first)

    try:
        yield from pipeline.recovery.rounds(attempt)
    finally:
        pipeline.seat.leave()
        pipeline.passes.close()


def _rounds(pipeline: Pipeline, first: PendingPass) -> Iterator[Round | Request]:
    """Yield the rounds of an answer, whose first pass is already sent, and requests."""
    planner, stops, recovery = pipeline.planner, pipeline.stops, pipeline.recovery
    pipeline.begin(first)
    pipeline.seat.take()
    plan = Plan(first.width)
    while not stops.ended:
        round = yield from play_round(pipeline, plan, stops)
        first = round.width == 0  # of the answer: nothing delays it
        if not first:
            planner.report(round)
            pipeline.seat.report(plan, len(round.tokens))
            if not (stops.ended or recovery.deferred):
                with recovery.defer(BaseException):
                    plan = yield from pipeline.prepare()
        with planner.watch.paused():
            yield round
        pipeline.passes.check_thread()
        recovery.raise_deferred()
        if first and not stops.ended:
            pipeline.passes.finish_prefill()
            planner.report(round)
            plan = yield from pipeline.prepare()


class Pipeline:
    """The passes of a round, some of them sent before their round begins.

    A block is drafted while the caller uses the round before it. After a single row
    another single row may be known to follow, whatever its token is; that pass is sent
    before the token is read, as mlx-lm pipelines plain decoding. Behind the prefill
    nothing is sent until the caller has the first token.

    Args:
        passes: Run the models.
        planner: Plans the rounds.
        stops: Has the number of tokens that may follow.
        recovery: Defers exceptions that are raised after a round's tokens were cut.
        seat: The answer's place among those that share passes. In company, no pass is
            sent ahead.
        constraint: Keeps the answer within a grammar; None for a free one.
    """

    def __init__(
        self,
        passes: Passes,
        planner: Planner,
        stops: Stops,
        recovery: Recovery,
        seat: Seat,
        constraint: Constraint | None = None,
    ):
        self.passes, self.planner = passes, planner
        self.stops, self.recovery, self.seat = stops, recovery, seat
        self.constraint = constraint

    def begin(self, first: PendingPass) -> None:
        """Start with a pass that is already sent."""
        self.ahead: PendingPass | None = first  # the next round's pass
        self.drafted: tuple[mx.array, mx.array | None] | None = None  # its block

    def prepare(self) -> Generator[Request, None, Plan]:
        """Plan the next round and start its draft, which changes no cache."""
        if self.ahead is not None:
            return Plan()
        forced = self.planner.forced = self._forced()
        plan = self.planner.next()
        request = DraftRequest(self.passes, plan, self.planner.uses_confidence)
        yield request
        block, confidence = request.result()
        if forced and plan.source == DRAFTER:
            block, confidence = put_first(forced, block, confidence)
        self.drafted = block, confidence
        return plan

    def _forced(self):
        """The tokens that must come next, if a grammar allows only one text."""
        self.planner.masked = self.constraint is not None and self.constraint.active
        if not self.planner.masked:
            return []
        return self.constraint.forced()[: min(self.stops.left, self.planner.most) - 1]

    def draft(self, plan: Plan) -> mx.array:
        """The block [n] of the round that `prepare` planned."""
        if self.ahead is not None:
            block = self.ahead.block
        else:
            (block, confidence), self.drafted = self.drafted, None
            block = self.planner.to_verify(block, confidence)
        if self.constraint is None:
            return block
        legal = self.constraint.keep_legal(block, self.passes.chooser.vocab_size)
        return self.planner.drop_illegal(block, len(legal))

    def verify(
        self, block: mx.array
    ) -> Generator[Request, None, tuple[mx.array, mx.array]]:
        """Send the pass over a block, and the next single row behind it if one
        follows; the choices [n] and logits [n, V] of the first."""
        sent, self.ahead = self.ahead, None
        masks = self.constraint and self.constraint.masks
        if sent is None:
            request = VerifyRequest(self.passes, block, masks)
            yield request
            sent = request.result()
        elif masks is not None:
            sent = sent.masked(masks, self.passes.chooser)
        masked = self.constraint is not None and self.constraint.active
        if sent.width == 1 and self.stops.left > 1 and self._can_send_ahead(masked):
            # Under a grammar the choice waits for the mask, and so for this token.
            self.ahead = self.passes.verify(sent.choices, choose=not masked)
        return sent.choices, sent.logits

    def _can_send_ahead(self, masked):
        """Whether the next pass is a single row, whatever its token is. Under a grammar
        that token may force others, which are drafts."""
        if not self.seat.company.is_alone or (masked and not self.planner.is_plain):
            return False
        return self.planner.can_send_ahead()

    def commit(self, tokens: list[int]) -> None:
        """Commit a round; a kernel failure is raised after the round is yielded.

        Raises:
            GrammarError: A token is not legal. Nothing is committed then.
        """
        if self.constraint is not None:
            self.constraint.accept(tokens)
        with self.recovery.defer(*KERNEL_ERRORS):
            self.passes.commit(tokens)


def make_planner(
    pair: Pair, seat: Seat, cache: PromptCache, stops: Stops, block_size: int | None
) -> Planner:
    """A planner for a fixed block size, or for widths by measurement if it is None."""
    text, most = cache.text, MAX_ROWS if pair.target.exact else stops.left
    if block_size is not None:
        return Planner(FixedWidth(block_size), text, stops, most)
    widest = pair.drafter.block_size
    controller = (
        SharedController(widest, seat)
        if seat.may_have_company
        else Controller(widest, seat.history)
    )
    lookup = Lookup(text, cache.token_array)
    return Planner(controller, text, stops, most, lookup)


def prepare_cache(
    pair: Pair, cache: PromptCache | None, max_kv_size: int | None = None
) -> PromptCache:
    """The caller's cache if decoding can continue from it, or a new one for None.

    Raises:
        OptionError: It is not a PromptCache, belongs to another pair, is broken, or was
            made with another max_kv_size.
    """
    if cache is None:
        return PromptCache(pair, max_kv_size)
    if not isinstance(cache, PromptCache):
        raise OptionError(
            f"prompt_cache must be a dflash_mlx.PromptCache, not a "
            f"{type(cache).__name__}.",
            "Create one with PromptCache(pair).",
        )
    cache.release()
    if not cache.fits(pair):
        raise OptionError(
            "This prompt_cache belongs to another pair.", "Create one with this pair."
        )
    if max_kv_size not in (None, cache.max_kv_size):
        raise OptionError(
            f"This prompt_cache was made with max_kv_size {cache.max_kv_size}, not "
            f"{max_kv_size}.",
            "Pass max_kv_size to PromptCache.",
        )
    if cache.broken:
        raise OptionError(
            "This prompt_cache was interrupted at a point that its model cannot be "
            "rolled back to.",
            "Call its reset(), or reuse(prompt) with the whole prompt.",
        )
    return cache


def token_limit(pair: Pair, cached: int, new: int, max_tokens: int) -> int:
    """The number of tokens that may follow a prompt: `max_tokens`, or fewer if the
    model's context ends before.

    Args:
        pair: Its target has a context length.
        cached: Rows in the caches.
        new: Tokens to pass after these, 1 or more.
        max_tokens: Most tokens to produce; -1 for no limit.

    Raises:
        PromptError: `new` is 0, or the context has no room for an answer.
        OptionError: max_tokens is 0 or below -1.
    """
    require(max_tokens == -1 or max_tokens > 0, "max_tokens", "-1 or > 0", max_tokens)
    if new == 0:
        raise PromptError("The prompt is empty.", "Pass at least one token.")
    context = pair.target.context
    room = 2**62 if context is None else context - cached - new
    if room <= 0:
        raise PromptError(
            f"The prompt has {cached + new} tokens, but the model's context ends at "
            f"{context}.",
            "Shorten the prompt.",
        )
    return room if max_tokens == -1 else min(max_tokens, room)
