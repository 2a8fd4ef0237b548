"""The passes of one answer: drafts, verified blocks, commits.

Owns the caches while an answer is decoded, and the rows in them that are not committed
yet. Does not know when an answer ends or what a round should do; see round.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from threading import get_ident

import mlx.core as mx

from ..cache import rollback
from ..cache.prompt_cache import PromptCache
from ..errors import OptionError
from ..models.drafters.base import Confident, Drafts
from ..models.drafters.base import Request as AskedDrafts
from ..models.targets.replay import Tape
from ..pair import Pair
from ..speculation.controller import Plan
from ..types import KVBits
from .features import FeatureQueue
from .pending import PendingPass
from .sampling import Chooser, mask_logits

# Tokens between two times that MLX's cache of free buffers is emptied, as in mlx-lm.
CLEAR_EVERY = 256

# Of a pass over n rows: logits [1, n, V], features [1, n, F], and the recording.
Forward = tuple[mx.array, mx.array, Tape | None]


class Passes:
    """The models' passes over one text.

    Args:
        pair: Target and drafter.
        cache: The text to continue, and its caches.
        prompt_ids: The tokens that follow the cache's text.
        chooser: Makes the target's choices.
        kv: Quantization of the target's KV cache.
        drafting: Whether the drafter's context is kept up to date.
        keep: Whether the cache is used after `close`.

    Attributes:
        pending: Passes that are not committed yet, oldest first: one block or two
            single rows at most.
        features: Those of committed rows that the drafter lacks.
        unseen: The number of the last round's tokens that the caller has not been
            handed yet. `close` removes them from the text.
    """

    def __init__(
        self,
        pair: Pair,
        cache: PromptCache,
        prompt_ids: Sequence[int],
        chooser: Chooser,
        kv: KVBits,
        drafting: bool,
        keep: bool = True,
    ):
        self.target, self.drafter = pair.target, pair.drafter
        self.cache, self.chooser, self.kv = cache, chooser, kv
        self.drafting, self.keep = drafting, keep
        self.thread = get_ident()
        self.confident = isinstance(pair.drafter, Confident) and pair.drafter.confident
        self.taps = pair.drafter.taps if drafting else ()
        self.since_clear = 0
        cache.settle()
        self.kept_tokens = len(cache.text)  # tokens that `close` keeps
        self._own_cache()
        cache.token_array.cut(self.kept_tokens)
        cache.text += prompt_ids
        self.prompt_end = len(cache.text)  # the answer starts here

    def _own_cache(self):
        """Own the cache, without pending passes."""
        self.pending: list[PendingPass] = []
        drafter = self.drafter if self.drafting else None
        self.features = FeatureQueue(drafter, self.cache)
        self.history: mx.array | None = None  # the text and pending rows
        self.committed: tuple[PendingPass, int] | None = None  # the last block
        self.unseen = 0
        self.interrupted = False
        self.cache.owner = self

    @property
    def pending_rows(self) -> int:
        """Rows in the target's cache that are not committed."""
        return sum(sent.width for sent in self.pending)

    @property
    def rows(self) -> int:
        """Rows in the target's cache, pending ones included."""
        return self.cache.rows + self.pending_rows

    def forget_rows(self) -> None:
        """Make new caches, since a failure may have left any array wrong."""
        marks = self.cache.marks
        with self.changing_caches():
            self.cache.forget_rows()
            self.cache.marks = marks
            self._own_cache()

    def finish_prefill(self) -> None:
        """Give the drafter what the first token did not wait for, and wait until it is
        computed, so that the next round's time does not include it."""
        self.flush_features()
        mx.eval(self.features.contexts())

    def visible(self, n: int) -> int:
        """How many of the next n prompt rows lie in the drafter's window, seen from the
        text's end or from the next mark, where a later prompt may continue."""
        if not self.drafting:
            return 0
        left = min(len(self.cache.text) - self.cache.rows, self.cache.to_mark())
        window = self.drafter.window
        return n if window is None else max(0, min(n, window - (left - n)))

    def check_thread(self) -> None:
        """Raise OptionError in another thread than the one that began."""
        if get_ident() != self.thread:
            raise OptionError(
                "This generation began in another thread, and MLX evaluates what is "
                "pending only there.",
                "Continue it in that thread, or start a new one with its prompt_cache.",
            )

    @contextmanager
    def changing_caches(self):
        """Remember if an exception interrupts a change of the caches.

        Raises:
            OptionError: As in `check_owner`.
        """
        self.check_owner()
        self.interrupted = True
        yield
        self.interrupted = False

    def check_owner(self) -> None:
        """Raise OptionError if another decoding owns the caches now."""
        if self.cache.owner is not self:
            raise OptionError(
                "Another generation has taken over this one's prompt_cache.",
                "Start this one again.",
            )

    def draft(
        self,
        plan: Plan,
        with_confidence: bool = False,
        computed: Drafts | None = None,
    ) -> tuple[mx.array, mx.array | None]:
        """Start drafting after the text's last token.

        Args:
            plan: The number of rows, and the drafts if a lookup proposes them.
            with_confidence: Also compute the drafter's confidence, if it has any.
            computed: The drafter's result, if it was computed with those of others.

        Returns:
            The block [n]: the anchor and n - 1 drafts, possibly fewer than planned. And
            the confidence [n - 1] in each draft, or None.
        """
        width, anchor = self._draft_width(plan), self._anchor()
        if width <= 1:
            return anchor, None
        if plan.drafts is not None:
            drafts, confidence = mx.array(plan.drafts, dtype=mx.uint32), None
        else:
            computed = computed or self._propose(plan, with_confidence)
            drafts, confidence = computed[0][0].astype(mx.uint32), computed[1]
            if confidence is not None:
                confidence = confidence[0].astype(mx.float32)
        block = mx.concatenate([anchor, drafts[: width - 1]])
        mx.async_eval(block, *([] if confidence is None else [confidence]))
        return block, confidence

    def _draft_width(self, plan):
        """The rows of a plan's block, the anchor included."""
        width = max(plan.width, plan.probe_rows)
        if self.kv.bits and self.rows < self.kv.start:
            # A block must not extend over the row at which the cache is quantized.
            width = min(width, self.kv.start - self.rows)
        return width

    def _anchor(self):
        return mx.array(self.cache.text[-1:], dtype=mx.uint32)

    def ask_drafter(self, plan: Plan) -> AskedDrafts | None:
        """What the drafter needs to draft for a plan, or None if it is not needed."""
        width = self._draft_width(plan)
        if width <= 1 or plan.drafts is not None:
            return None
        self.flush_features()
        anchor, history = self._anchor(), None
        if self.chooser.needs_tokens:
            history = mx.concatenate([self.history, anchor])
        choose = self.chooser.for_drafts(history, self.rows)
        return AskedDrafts(anchor, self.cache.drafter, width, choose)

    def _propose(self, plan, with_confidence) -> Drafts:
        asked = self.ask_drafter(plan)
        if with_confidence and self.confident:
            return self.drafter.propose_with_confidence(*asked)
        return self.drafter.propose(*asked), None

    def verify(
        self,
        block: mx.array,
        masks: mx.array | None = None,
        choose: bool = True,
        computed: Forward | None = None,
    ) -> PendingPass:
        """Send the target's pass over `block` [n], the anchor first. Does not wait.

        Args:
            masks: [n, words] the tokens that each row may choose; None for all.
            choose: Whether the choice of a single row is used, or one with masks.
            computed: What the pass gives, if it was computed with those of others.
        """
        self.committed = None  # frees its recording before the next one is made
        with self.changing_caches():
            block = block.astype(mx.uint32)
            return self.send(block, len(block), masks, choose, computed)

    def send(
        self,
        block: mx.array,
        width: int,
        masks: mx.array | None = None,
        choose: bool = True,
        computed: Forward | None = None,
    ) -> PendingPass:
        """One forward over `block` [n], and a choice after each row.

        Args:
            width: As in PendingPass.
            masks, choose, computed: As in `verify`.
        """
        rows = len(block)
        short = rows > max(width, 1)  # a short prompt, of which the last row chooses
        visible = self.visible(rows) if short else rows
        if computed is None:
            computed = self.forward(block, visible, width > 1)
        logits, features, tape = computed
        if width <= 1:
            self.cache.quantize(self.kv)
        if self.chooser.needs_tokens:
            self.history = mx.concatenate([self.history, block])
        if short:
            self.features.keep(features, rows, visible)
            block, logits, features = block[-1:], logits[:, -1:], None
        logits = mask_logits(self.chooser.process(logits[0], self.history), masks)
        first = self.rows + rows - len(block) + 1  # the position of the first choice
        choices = self.chooser.choose(logits, range(first, first + len(logits)))
        sent = PendingPass(block, width, first, choices, logits, features, tape)
        self.pending.append(sent)
        if width <= 1:  # a block is evaluated with the number of accepted drafts
            mx.async_eval(choices if choose else logits, self.features.prompt)
        return sent

    def forward(self, tokens: mx.array, visible: int, block: bool = False) -> Forward:
        """The target's pass over tokens [n].

        Args:
            visible: Rows of them that the drafter sees.
            block: Rows may be taken back.
        """
        taps = self.taps if visible else ()
        if block:
            return self.target.verify(tokens[None], self.cache.target, taps)
        return *self.target.forward(tokens[None], self.cache.target, taps), None

    def commit(self, tokens: list[int]) -> None:
        """Append `tokens` to the text. Of the oldest pending pass, the caches keep the
        rows that led to them and no others."""
        sent = self.pending[0]
        keep = len(tokens) if sent.width else 0
        with self.changing_caches():
            self.cache.text += tokens
            self._commit_rows(sent, keep)
        self.committed = (sent, keep) if keep > 1 else None
        if (drop := sent.width - keep) and self.chooser.needs_tokens:
            self.history = self.history[:-drop]
        if sent.features is not None:
            self.features.add(sent.features[:, : max(keep, 1)])
        self.since_clear += len(tokens)
        if self.since_clear >= CLEAR_EVERY:
            self.since_clear = 0
            mx.clear_cache()

    def _commit_rows(self, sent, keep):
        if sent.width > 1:
            self._cut(sent, keep)
            self.cache.quantize(self.kv)
        del self.pending[0]
        self.cache.rows += keep
        self.kept_tokens = len(self.cache.text)

    def _cut(self, sent, keep):
        """Keep the first `keep` rows of a block in the target's cache."""
        self.target.commit(self.cache.target, sent.tape, sent.width, keep)

    def close(self) -> None:
        """Leave both caches with the committed tokens, wherever decoding stopped.

        The first pending row is that of the text's last token. Of a block that row is
        kept, and so is a single row that cannot be cut. If a change was interrupted and
        the cache cannot be cut, it is marked as broken. Tokens of the last round that
        the caller has not been handed are removed.

        Everything is evaluated, so that another thread can go on. That may be
        impossible in another thread than the one that decoded; then the cache is broken
        too. In any case the drafter lacks the last rows there.
        """
        cache = self.cache
        if cache.owner is not self:
            return
        # Broken until the end of this method, in case that is interrupted too.
        cache.owner, cache.broken = None, True
        del cache.text[max(cache.rows, self.kept_tokens) :]
        if get_ident() != self.thread:  # these features are pending
            self.features.rounds = []
        self.flush_features()
        pending_rows = self.pending_rows
        if not self.interrupted and self.pending and self.pending[0].width > 1:
            self._cut(self.pending[0], 1)
            pending_rows = 1
        sound = rollback.can_cut_to(cache.target, cache.rows)
        tail = len(cache.text) - cache.rows
        if not (sound or self.interrupted) and pending_rows == tail:
            cache.rows, sound = len(cache.text), True
        cache.settle()
        cache.broken = not (sound or not (self.interrupted or pending_rows))
        if self.unseen:
            self._take_back_unseen()
        if self.keep and not cache.broken:
            self._evaluate()

    def _take_back_unseen(self):
        """Remove the tokens that the caller has not been handed, and their rows."""
        cache, unseen = self.cache, self.unseen
        if self.committed and not (cache.broken or self.pending or self.interrupted):
            # Recurrent layers and full windows can only return to rows of this block.
            sent, keep = self.committed
            left = max(keep - unseen, 1)
            if left < keep and cache.stays_quantized(cache.rows - (keep - left)):
                cache.broken = True  # in case this is interrupted
                self.target.commit(cache.target, sent.tape, keep, left)
                cache.rows -= keep - left
                cache.broken = False
        cache.take_back(unseen)

    def _evaluate(self):
        """Evaluate the cache. If that fails, it is broken."""
        try:
            self.cache.evaluate()
        except RuntimeError:
            self.cache.broken = True
            if get_ident() == self.thread:
                raise

    def flush_features(self):
        """Give the drafter the features of committed rows that it lacks."""
        self.features.flush()
