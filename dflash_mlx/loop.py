"""The loop: token ids in, Rounds of the target's own choices out.

Owns the round: draft, verify, choose, cut, commit. Knows nothing of text,
tokenizers, clocks or files. A round is yielded only after its commit, so a caller may
close the generator at any time; the caches then hold exactly what was yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx

from . import rollback
from .errors import OptionError, PromptError
from .kv import quantize
from .models.targets.replay import Tape
from .pair import Pair
from .prompt_cache import PromptCache
from .sampling import Chooser, LogitsProcessor, Sampler
from .types import KVBits, Round, Sampling, require

# Features of rounds without drafts wait for company before they go to the drafter.
PENDING_ROWS = 64
# MLX's cache of free buffers is emptied once in so many tokens, as mlx-lm does.
CLEAR_EVERY = 256

Scan = Callable[[list[int]], "int | None"]


@dataclass(frozen=True)
class Flight:
    """A pass that was sent off, not read yet.

    Args:
        width: Rows it wrote behind the committed ones; 0 for the prefill, whose
            rows are the prompt's.
        choices: [n] the target's choice after each of n = max(width, 1) rows.
        packed: [n + 1] the choices, then how many leading drafts equal them.
        logits: [n, V] what the choices were made from.
        features: [1, n, F] of the rows, for the drafter.
        tape: What the target needs to take rows of the block back.
    """

    width: int
    choices: mx.array
    packed: mx.array
    logits: mx.array
    features: mx.array
    tape: Tape | None = None

    def read(self) -> tuple[list[int], int]:
        """The tokens it gives and how many of them were drafted: the round's one
        blocking host read."""
        *choices, accepted = self.packed.tolist()
        return choices[: accepted + 1], accepted


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
        block_size: Rows of a block, the anchor included; None is the drafter's own,
            1 means no drafting.
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
    require(block_size is None or block_size >= 1, "block_size", ">= 1", block_size)
    require(prefill_step_size >= 1, "prefill_step_size", ">= 1", prefill_step_size)
    cache = usable(pair, prompt_cache, max_kv_size)
    pair.target.check_kv(kv, cache.target)
    ids = cache.tail + list(prompt_ids)
    left = token_limit(pair, len(cache.tokens), len(ids), max_tokens)
    chooser = Chooser(sampling, logits_processors, sampler)
    drafting = speculate and pair.drafter is not None and block_size != 1
    widest = (block_size or pair.drafter.block_size) if drafting else 1
    loop = Loop(pair, cache, chooser, kv, drafting)
    try:
        flight = loop.prefill(ids, prefill_step_size, progress)
        while True:
            # What follows a single row is known before it is read, so the next
            # single row is sent off first: plain decoding, pipelined as mlx-lm's.
            ahead = None
            if flight.width <= 1 and widest == 1 and left > 1:
                ahead = loop.send(flight.choices)
            tokens, accepted = flight.read()
            tokens, ended = cut(tokens[:left], stop_ids, scan)
            loop.commit(flight, tokens)
            left -= len(tokens)
            width, logits = flight.width, flight.logits[: len(tokens)]
            flight = ahead  # what the round needed is let go before it is told
            ended = ended or left == 0
            block = failed = None
            if flight is None and not ended:
                # Drafted while the caller uses the round; caches do not change by it.
                try:
                    block = loop.draft(mx.array(tokens[-1:]), min(widest, left))
                except BaseException as error:  # what is committed is told first
                    failed = error
            accepted = min(accepted, len(tokens))
            yield Round(tokens, max(width - 1, 0), accepted, width, logits)
            if failed is not None:
                raise failed
            if ended:
                return
            flight = flight or loop.send(block)
    finally:
        loop.close()


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


class Loop:
    """The state of one decoding: caches, history, and rows not committed yet."""

    def __init__(
        self,
        pair: Pair,
        cache: PromptCache,
        chooser: Chooser,
        kv: KVBits,
        drafting: bool,
    ):
        self.target, self.drafter = pair.target, pair.drafter
        self.cache, self.chooser, self.kv = cache, chooser, kv
        self.drafting = drafting
        self.taps = pair.drafter.taps if drafting else ()
        cache.settle()
        self.history = mx.array(cache.tokens, dtype=mx.uint32)
        self.uncommitted = 0
        self.block: Flight | None = None  # a block that is not committed yet
        self.quiet = True  # caches and what is known of them agree
        self.pending: list[mx.array] = []
        self.since_clear = 0
        cache.owner = self

    @property
    def rows(self) -> int:
        """Rows in the target's cache, the uncommitted ones included."""
        return len(self.cache.tokens) + self.uncommitted

    def prefill(self, ids: list[int], step: int, progress) -> Flight:
        """Pass the prompt in chunks, its last token alone, as mlx-lm does.

        Each chunk's features go to the drafter and are dropped; logits are lazy,
        so only the last row's are computed.
        """
        total, done = len(ids), 0
        if progress:
            progress(0, total)
        while done < total - 1:
            n = min(step, total - 1 - done)
            chunk = mx.array(ids[done : done + n], dtype=mx.uint32)
            visible = self._visible(total - done, n)
            with self._change():
                # No name for the features: they are freed as soon as they are used.
                self._extend(self._forward(chunk, visible)[1], n, visible)
                self._quantize()
                self._taken(ids[done : done + n])
                mx.eval([entry.state for entry in self.cache.target], self._drafted())
            mx.clear_cache()
            done += n
            if progress:
                progress(done, total)
        self.history = mx.array(self.cache.tokens, dtype=mx.uint32)
        with self._change():
            flight = self._fly(mx.array(ids[-1:], dtype=mx.uint32), width=0)
            self._taken(ids[-1:])
        if progress:
            progress(total, total)
        return flight

    def _taken(self, ids):
        """Prompt tokens passed the target; the last answer's tail was among them."""
        self.cache.tail = []
        self.cache.tokens += ids

    @contextmanager
    def _change(self):
        """The caches change meanwhile; what leaves this early leaves them in doubt.

        Raises:
            OptionError: Another decoding has taken the caches over.
        """
        if self.cache.owner is not self:
            raise OptionError(
                "Another generation has taken over the prompt_cache of this one.",
                "Start this one anew.",
            )
        self.quiet = False
        yield
        self.quiet = True

    def draft(self, anchor: mx.array, width: int) -> mx.array:
        """Start drafting width - 1 tokens behind `anchor` [1]; the block [width].

        It may come out narrower. Nothing is read here.
        """
        if self.kv.bits and self.rows < self.kv.start:
            # Rows of one pass must all see the cache in one form, as single rows do.
            width = min(width, self.kv.start - self.rows)
        block = anchor.astype(mx.uint32)
        if width > 1:
            block = mx.concatenate([block, self._propose(block, width)])
            mx.async_eval(block)
        return block

    def send(self, block: mx.array) -> Flight:
        """Verify `block` [n], its anchor first, in one pass; nothing is read here."""
        with self._change():
            return self._fly(block.astype(mx.uint32), len(block))

    def _propose(self, anchor, width):
        self._flush()
        history = None
        if self.chooser.needs_tokens:
            history = mx.concatenate([self.history, anchor])

        def choose(logits, slots, ids=None):
            candidates = None if ids is None else ids[0]
            rows = self.chooser.process_draft(logits[0], history, candidates)
            positions = [self.rows + slot for slot in slots]
            return self.chooser.choose(rows, positions, candidates, draft=True)[None]

        drafts = self.drafter.propose(anchor, self.cache.drafter, width, choose)
        return drafts[0].astype(mx.uint32)

    def _fly(self, block, width):
        """Verify `block` [n]: one forward, a choice after each row, a comparison."""
        # Rows of the prefill are the prompt's; others stay on trial until a commit.
        first = self.rows + 1
        logits, features, tape = self._forward(block, len(block), width > 1)
        self.uncommitted += width
        if width <= 1:
            self._quantize()
        if self.chooser.needs_tokens:
            self.history = mx.concatenate([self.history, block])
        logits = self.chooser.process(logits[0], self.history)
        choices = self.chooser.choose(logits, range(first, first + len(logits)))
        right = (choices[:-1] == block[1:]) if width > 1 else mx.zeros((0,), mx.bool_)
        accepted = mx.cumprod(right.astype(mx.uint32)).sum(keepdims=True)
        packed = mx.concatenate([choices, accepted.astype(mx.uint32)])
        mx.async_eval(packed)
        flight = Flight(width, choices, packed, logits, features, tape)
        if width > 1:
            self.block = flight
        return flight

    def _forward(self, tokens, visible, block=False):
        taps = self.taps if visible else ()
        if block:
            return self.target.verify(tokens[None], self.cache.target, taps)
        return *self.target.forward(tokens[None], self.cache.target, taps), None

    def _keep(self, keep):
        """Leave the target's cache with the first `keep` rows of the block on trial."""
        flight, self.block = self.block, None
        self.target.commit(self.cache.target, flight.tape, flight.width, keep)

    def _quantize(self):
        """Quantize the cache once it is long enough, as mlx-lm does after each row;
        rows on trial do not count."""
        if self.kv.bits:
            options = self.kv.bits, self.kv.group_size, self.kv.start
            quantize(self.cache.target, *options)

    def _visible(self, left, n):
        """How many of the next n of `left` prompt rows the drafter can ever see."""
        if not self.drafting:
            return 0
        window = self.drafter.window
        return n if window is None else max(0, min(n, window - (left - n)))

    def commit(self, flight: Flight, tokens: list[int]) -> None:
        """Make `tokens` part of the text: caches keep their rows and no others."""
        keep = len(tokens) if flight.width else 0
        drop = flight.width - keep
        with self._change():
            if flight.width > 1:
                self._keep(keep)
                self._quantize()
            self.uncommitted -= flight.width
            tail, self.cache.tail = self.cache.tail, []
            if keep:
                self.cache.tokens += tail + tokens[:-1]
            self.cache.tail = tokens[-1:]
        if drop and self.chooser.needs_tokens:
            self.history = self.history[:-drop]
        if self.drafting:
            self.pending.append(flight.features[:, : max(keep, 1)])
            if sum(f.shape[1] for f in self.pending) >= PENDING_ROWS:
                self._flush()
                mx.async_eval(self._drafted())
        self.since_clear += len(tokens)
        if self.since_clear >= CLEAR_EVERY:
            self.since_clear = 0
            mx.clear_cache()

    def close(self) -> None:
        """Leave both caches holding the committed tokens, whatever was under way.

        The first row on trial is that of the last token of the text, so a block
        keeps it, and a single row that cannot be cut stays. Where caches are in doubt
        and cannot be cut, they are broken.
        """
        if self.cache.owner is not self:
            return
        # Until the end of this, for a second interruption.
        self.cache.owner, self.cache.broken = None, True
        self._flush()
        if self.quiet and self.block is not None:
            self._keep(1)
            self.uncommitted = 1
        sound = rollback.can_cut_to(self.cache.target, len(self.cache.tokens))
        if not sound and self.quiet and self.uncommitted == len(self.cache.tail):
            self._taken(self.cache.tail)
            sound = True
        self.cache.settle()
        self.cache.broken = not (sound or (self.quiet and not self.uncommitted))

    def _extend(self, features, rows, visible):
        """Give the drafter the last `visible` of `rows` committed rows."""
        if self.drafting:
            for entry in self.cache.drafter:
                entry.skip(rows - visible)
            if visible:
                self.drafter.extend(features[:, -visible:], self.cache.drafter)

    def _flush(self):
        if self.pending:
            features = mx.concatenate(self.pending, axis=1)
            self.pending = []
            self._extend(features, features.shape[1], features.shape[1])

    def _drafted(self):
        return [array for entry in self.cache.drafter for array in entry.arrays()]
