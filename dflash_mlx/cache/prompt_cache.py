"""Which tokens a pair's caches hold, and how much of them a new prompt can keep.

Knows tokens and rows. What is inside a target's cache is rollback.py's business, and
what is copied of it that of snapshots.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..types import KVBits, require
from . import kinds, rollback, snapshots


class CachedPair(Protocol):
    """What a PromptCache needs of a Pair: its models, and how they make their caches.

    Attributes:
        target: Its `make_cache(max_kv_size)` gives one cache per layer.
        drafter: Its `make_cache()` gives contexts; None without a drafter.
    """

    target: Any
    drafter: Any

    @property
    def model(self) -> Any:
        """The mlx-lm model, compared by identity."""

    def fingerprints(self) -> dict[str, str]:
        """A short text for each model that changes with what the model computes."""


class Owner(Protocol):
    """A decoding under way."""

    def close(self) -> None:
        """Leave the caches in order and let them go."""


class PromptCache:
    """The caches of one conversation: target and drafter, always in step.

    Args:
        pair: Whose caches.
        max_kv_size: Most rows that a layer of the target keeps; the first
            few and the last ones stay. None keeps all.
        snapshot_bytes: Most bytes of copies of what cannot be cut back; 0 takes
            none, None is what this machine can spare.

    Raises:
        OptionError: max_kv_size is too small, or the target has nothing to bound;
            snapshot_bytes is negative.

    Attributes:
        tokens: The tokens whose rows the target's cache holds.
        tail: Tokens that were produced but not passed through the target yet (the
            last one of an answer); they are fed first next time.
        target: The target's cache, one entry a layer.
        drafter: The drafter's context; empty without a drafter.
        owner: Who decodes with it now; settles it in the end.
        broken: An interruption left rows that cannot be undone; `reuse` then goes back
            to a snapshot, or starts afresh as `reset` does.
        marks: Numbers of leading tokens at which prefill stops for a snapshot.
        quantized_from: Rows that the target's cache had to have to be quantized; None
            while it is not. With fewer it cannot stay so.
        shelf: The snapshots of `tokens`.
    """

    def __init__(
        self,
        pair: CachedPair,
        max_kv_size: int | None = None,
        snapshot_bytes: int | None = None,
    ):
        require(
            max_kv_size is None or max_kv_size > kinds.KEPT_ROWS,
            "max_kv_size",
            f"more than {kinds.KEPT_ROWS}",
            max_kv_size,
        )
        if snapshot_bytes is None:
            snapshot_bytes = snapshots.default_bytes()
        require(snapshot_bytes >= 0, "snapshot_bytes", "0 or more", snapshot_bytes)
        self.pair, self.max_kv_size = pair, max_kv_size
        self.snapshots = snapshots.SnapshotStore(snapshot_bytes)
        self.owner: Owner | None = None
        self.reset()

    def fits(self, pair: CachedPair) -> bool:
        """Whether `pair` can go on from these caches."""
        ours = self.pair
        return pair.model is ours.model and pair.drafter is ours.drafter

    def release(self) -> None:
        """End a decoding that is suspended with these caches, as its close does."""
        if self.owner is not None:
            self.owner.close()

    def reset(self) -> None:
        """Forget everything."""
        self.owner = None
        self.broken = True  # should this be interrupted
        self.tokens: list[int] = []
        self.tail: list[int] = []
        self.marks: list[int] = []
        self.quantized_from: int | None = None
        self.snapshots.drop_behind(-1)
        self.target = self.pair.target.make_cache(self.max_kv_size)
        drafter = self.pair.drafter
        self.drafter = drafter.make_cache() if drafter else []
        self.broken = False

    def settle(self) -> None:
        """Make both caches hold exactly `tokens`; the target's if it can be cut."""
        rows = len(self.tokens)
        if rollback.can_cut_to(self.target, rows):
            rollback.cut_to(self.target, rows)
        for entry in self.drafter:
            # Also by nothing: an interruption may have left rows without positions.
            entry.cut(max(0, entry.offset - rows))
            entry.skip(rows - entry.offset)

    def reuse(self, prompt: Sequence[int], marks: Sequence[int] = ()) -> list[int]:
        """Keep what is held of `prompt`, and return what is left to pass of it.

        That is the longest common prefix where every layer can be cut to it, else the
        longest snapshot inside it; without one everything is started afresh. At least
        one token is left, since its row gives the first logits.

        Snapshots are taken where they cost no more than a copy or a shorter chunk: at
        the marks; at the prompt's end, for the same prompt again; and at the end of
        the common prefix if the prompt leaves the text there, for it may do so again.

        Args:
            prompt: The whole prompt.
            marks: Numbers of leading tokens of it that later prompts may share with
                it and no more: see chat_template.marks.
        """
        self.release()
        last = len(prompt) - 1
        shared = min(common_prefix(self.tokens, prompt), last)
        leaves = shared < min(len(self.tokens), last)
        kept = self._keep(shared)
        self.marks = []
        if self.snapshots.most and snapshots.needed(self.target, self.drafter):
            stops = {*marks, last, *([shared] if leaves else [])}
            self.marks = sorted(at for at in stops if max(kept, 1) <= at <= last)
        return list(prompt[kept:])

    def _keep(self, rows):
        """Hold the first `rows` tokens, or fewer where it has to be; how many."""
        self.snapshots.drop_behind(rows)
        if self.broken or not self._can_cut(rows):
            rows = self._restore(rows)
        self.tail = []
        del self.tokens[rows:]
        self.settle()
        if (held := self.snapshots.latest(rows)) and not self.broken:
            held.fill(self.drafter, rows)
            self.settle()
        return rows

    def _can_cut(self, rows):
        if rows == len(self.tokens):
            return True
        return self._stays_quantized(rows) and rollback.can_cut_to(self.target, rows)

    def _restore(self, rows):
        """Go back to the longest snapshot of at most `rows` rows, or to nothing."""
        held = self.snapshots.latest(rows)
        if held is None or not self._stays_quantized(held.rows):
            self.reset()
            return 0
        self.broken = True  # should this be interrupted
        held.restore(self.target, self.drafter)
        del self.tokens[held.rows :]
        self.broken = False
        return held.rows

    def _stays_quantized(self, rows):
        """Whether `rows` rows have the form that they would have in a fresh cache."""
        return self.quantized_from is None or rows >= self.quantized_from

    def to_mark(self) -> int:
        """Rows until prefill is to stop for a snapshot; beyond all prompts for none."""
        rows = len(self.tokens)
        return next((at - rows for at in self.marks if at > rows), 2**62)

    def snapshot(self) -> None:
        """Copy what cannot be cut back, if these rows are marked and not kept yet."""
        rows = len(self.tokens)
        if rows in self.marks and not self.snapshots.at(rows):
            self.snapshots.put(snapshots.take(rows, self.target, self.drafter))

    def quantize(self, options: KVBits) -> None:
        """Quantize what is long enough for it, if that was asked for."""
        asked = options.bits, options.group_size, options.start
        if options.bits and kinds.quantize(self.target, *asked):
            self.quantized_from = options.start


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items two sequences share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
