"""The passes of one decoding: prefill, drafts, blocks on trial, commits.

Owns the caches while a text is decoded, and what is known of them. Knows no sampling
rule, no text and no end of it; loop.py says what follows what.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx

from ..cache import rollback
from ..cache.kinds import block_masks
from ..cache.prompt_cache import PromptCache
from ..errors import OptionError
from ..models.drafters.base import Confident
from ..models.targets.replay import Tape
from ..pair import Pair
from ..types import KVBits
from .sampling import Chooser

# Features of rounds without drafts wait for company before they go to the drafter.
PENDING_ROWS = 64
# MLX's cache of free buffers is emptied once in so many tokens, as mlx-lm does.
CLEAR_EVERY = 256


@dataclass(frozen=True)
class PendingPass:
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


class Decoding:
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
        self.confident = isinstance(pair.drafter, Confident) and pair.drafter.confident
        self.confidence: mx.array | None = None  # [n] in the drafts of the last block
        self.taps = pair.drafter.taps if drafting else ()
        cache.settle()
        self.before = len(cache.tokens) + len(cache.tail)
        self.history = mx.array(cache.tokens, dtype=mx.uint32)
        self.since_clear = 0
        self._begin()

    def _begin(self):
        """Nothing is on trial; caches and what is known of them agree."""
        self.uncommitted = 0
        self.block: PendingPass | None = None  # a block that is not committed yet
        self.quiet = True
        self.pending: list[mx.array] = []
        self.cache.owner = self

    @property
    def rows(self) -> int:
        """Rows in the target's cache, the uncommitted ones included."""
        return len(self.cache.tokens) + self.uncommitted

    def prefill(self, ids: list[int], step: int, progress) -> PendingPass:
        """Pass the prompt in chunks, its last token alone, as mlx-lm does.

        Each chunk's features go to the drafter and are dropped; logits are lazy,
        so only the last row's are computed.
        """
        self._feed(ids[:-1], step, progress, total=len(ids))
        with self._change():
            flight = self._fly(mx.array(ids[-1:], dtype=mx.uint32), width=0)
            self._taken(ids[-1:])
        if progress:
            progress(len(ids), len(ids))
        return flight

    def restart(self, text: list[int], given: int, step: int) -> PendingPass:
        """Compute the caches anew after something failed: all arrays are in doubt.

        Args:
            text: Every token, the prompt's and those told.
            given: How many were not told. Of the others, if there are any, the last
                one is passed as a row on trial.
            step: As in `prefill`.
        """
        told = len(text) > given
        marks = self.cache.marks
        with self._change():
            self.cache.reset()
            self.cache.marks = marks
            # Should this end early, the caches do not lack what was told before.
            self.cache.tail = text[:] if told else text[: self.before]
            self._begin()
        if not told:
            return self.prefill(text, step, None)
        prompt, answer = text[: given - 1], text[given - 1 :]
        self._feed(prompt, step, None, total=len(text))
        with block_masks(self.cache.target):  # they were no prompt's rows at first
            self._feed(answer[:-1], step, None, total=len(answer))
        return self.send(mx.array(text[-1:]))

    def _feed(self, ids, step, progress, total):
        """Pass the first ids of `total` in chunks, which end at the cache's marks."""
        done = 0
        if progress:
            progress(0, total)
        self.cache.snapshot()
        while done < len(ids):
            n = min(step, len(ids) - done, self.cache.to_mark())
            chunk = mx.array(ids[done : done + n], dtype=mx.uint32)
            visible = self._visible(total - done, n)
            with self._change():
                # No name for the features: they are freed as soon as they are used.
                self._extend(self._forward(chunk, visible)[1], n, visible)
                self.cache.quantize(self.kv)
                self._taken(ids[done : done + n])
                mx.eval([entry.state for entry in self.cache.target], self._drafted())
            self.cache.snapshot()
            mx.clear_cache()
            done += n
            if progress:
                progress(done, total)
        self.history = mx.array(self.cache.tokens, dtype=mx.uint32)

    def _taken(self, ids):
        """Tokens passed the target; the tail, if there is one, came first."""
        self.cache.tail = self.cache.tail[len(ids) :]
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

    def draft(
        self,
        anchor: mx.array,
        width: int,
        drafts: mx.array | None = None,
        propose_with_confidence: bool = False,
    ) -> mx.array:
        """Start drafting width - 1 tokens behind `anchor` [1]; the block [width].

        It may come out narrower. Nothing is read here.

        Args:
            drafts: [width - 1] tokens that somebody else proposes.
            propose_with_confidence: Ask for `confidence`, where the drafter has any.
        """
        if self.kv.bits and self.rows < self.kv.start:
            # Rows of one pass must all see the cache in one form, as single rows do.
            width = min(width, self.kv.start - self.rows)
        block, self.confidence = anchor.astype(mx.uint32), None
        if width > 1:
            if drafts is None:
                drafts = self._propose(
                    block, width, propose_with_confidence and self.confident
                )
            block = mx.concatenate([block, drafts[: width - 1]])
            mx.async_eval(
                block, *([] if self.confidence is None else [self.confidence])
            )
        return block

    def send(self, block: mx.array) -> PendingPass:
        """Verify `block` [n], its anchor first, in one pass; nothing is read here."""
        with self._change():
            return self._fly(block.astype(mx.uint32), len(block))

    def _propose(self, anchor, width, propose_with_confidence):
        self._flush()
        history = None
        if self.chooser.needs_tokens:
            history = mx.concatenate([self.history, anchor])

        def choose(logits, slots, ids=None):
            candidates = None if ids is None else ids[0]
            rows = self.chooser.process_draft(logits[0], history, candidates)
            positions = [self.rows + slot for slot in slots]
            return self.chooser.choose(rows, positions, candidates, draft=True)[None]

        asked = anchor, self.cache.drafter, width, choose
        if propose_with_confidence:
            drafts, confidence = self.drafter.propose_with_confidence(*asked)
            self.confidence = confidence[0].astype(mx.float32)
        else:
            drafts = self.drafter.propose(*asked)
        return drafts[0].astype(mx.uint32)

    def _fly(self, block, width):
        """Verify `block` [n]: one forward, a choice after each row, a comparison."""
        # Rows of the prefill are the prompt's; others stay on trial until a commit.
        first = self.rows + 1
        logits, features, tape = self._forward(block, len(block), width > 1)
        self.uncommitted += width
        if width <= 1:
            self.cache.quantize(self.kv)
        if self.chooser.needs_tokens:
            self.history = mx.concatenate([self.history, block])
        logits = self.chooser.process(logits[0], self.history)
        choices = self.chooser.choose(logits, range(first, first + len(logits)))
        right = (choices[:-1] == block[1:]) if width > 1 else mx.zeros((0,), mx.bool_)
        accepted = mx.cumprod(right.astype(mx.uint32)).sum(keepdims=True)
        packed = mx.concatenate([choices, accepted.astype(mx.uint32)])
        mx.async_eval(packed)
        flight = PendingPass(width, choices, packed, logits, features, tape)
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

    def _visible(self, left, n):
        """How many of the next n of `left` prompt rows the drafter can ever see: from
        the prompt's end, or from the next mark, which a later prompt may go on from."""
        if not self.drafting:
            return 0
        window, left = self.drafter.window, min(left, self.cache.to_mark())
        return n if window is None else max(0, min(n, window - (left - n)))

    def commit(self, flight: PendingPass, tokens: list[int]) -> None:
        """Make `tokens` part of the text: caches keep their rows and no others."""
        keep = len(tokens) if flight.width else 0
        drop = flight.width - keep
        with self._change():
            if flight.width > 1:
                self._keep(keep)
                self.cache.quantize(self.kv)
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
