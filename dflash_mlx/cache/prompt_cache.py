"""The text of a conversation, its caches, and what a new prompt can reuse of them.

Owns the text, which every decoding with these caches appends to. Does not know what is
inside a target's cache (rollback.py) or how it is copied (snapshots.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from ..token_array import TokenArray
from ..types import KVBits, require
from . import kinds, rollback, snapshots

# A prompt that shares SAME_START tokens with the beginning of the text holds the whole
# conversation; one that shares fewer than MIN_START does not, whatever its length.
MIN_START, SAME_START = 4, 16


class CachedPair(Protocol):
    """The part of a Pair that a PromptCache uses."""

    @property
    def target(self) -> Any:
        """Its `make_cache(max_kv_size)` returns one cache per layer."""

    @property
    def drafter(self) -> Any:
        """Its `make_cache()` returns contexts. None without a drafter."""

    @property
    def model(self) -> Any:
        """The mlx-lm model, compared by identity."""

    def fingerprints(self) -> dict[str, str]:
        """A short text for each model that depends on everything it computes with."""


class Owner(Protocol):
    """A decoding under way.

    Attributes:
        unseen: The number of the text's last tokens that the caller has not been handed
            yet. `close` removes them.
    """

    unseen: int

    def check_owner(self) -> None:
        """Raise OptionError if another decoding owns the caches now."""

    def close(self) -> None:
        """Leave the caches holding the committed text, and release them."""


class PromptCache:
    """The text of one conversation, with the target's and the drafter's caches.

    Args:
        pair: The models.
        max_kv_size: Most rows that a layer of the target keeps: the first few and the
            latest. None keeps all rows.
        snapshot_bytes: Most bytes of snapshots, the copies of caches that cannot be cut
            back. 0 takes none; None chooses by this machine's memory.

    Raises:
        OptionError: max_kv_size is too small, or no layer of the target can be bounded;
            snapshot_bytes is negative.

    Callers use `tokens`, `tail`, `fits`, `reset`, `reuse` and `take_back`. The rest
    belongs to the decoding that owns the caches, and may change.

    Attributes:
        text: All tokens of the conversation.
        rows: The number of leading tokens of `text` whose rows the caches hold. The
            rest, usually the last token of an answer, is passed first next time.
        target: The target's cache, one entry per layer.
        drafter: The drafter's context; empty without a drafter.
        owner: The decoding that uses the caches now.
        broken: An interruption left rows that cannot be removed. `reuse` then restores
            a snapshot, or starts from nothing as `reset` does.
        marks: Numbers of leading tokens at which prefill stops for a snapshot.
        quantized_from: The number of rows at which the target's cache was quantized, or
            None. It cannot be cut to fewer rows, which a new cache keeps exact.
        snapshots: The snapshots of `text`.
        token_array: A copy of `text` to search, right up to where a decoding adds its
            prompt.
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
        self.token_array = TokenArray()
        self.owner: Owner | None = None
        self.reset()

    def fits(self, pair: CachedPair) -> bool:
        """Whether `pair` can continue from these caches."""
        ours = self.pair
        return pair.model is ours.model and pair.drafter is ours.drafter

    def release(self) -> None:
        """Close the decoding that owns these caches, if there is one."""
        if self.owner is not None:
            self.owner.close()

    @property
    def tokens(self) -> list[int]:
        """The tokens whose rows the caches hold."""
        return self.text[: self.rows]

    @property
    def tail(self) -> list[int]:
        """The tokens after these: produced, but not passed through the target yet."""
        return self.text[self.rows :]

    def reset(self) -> None:
        """Drop the text and make new caches."""
        self.broken = True  # in case this is interrupted
        self.text: list[int] = []
        self.marks: list[int] = []
        self._left: list[int] = []  # what `reuse` returned last, until it is passed
        self.forget_rows()

    def forget_rows(self) -> None:
        """Make new caches, so that the whole text has to be passed again."""
        self.owner = None
        self.broken = True  # in case this is interrupted
        self.rows = 0
        self.quantized_from: int | None = None
        self.snapshots.drop_behind(-1)
        self.target = self.pair.target.make_cache(self.max_kv_size)
        drafter = self.pair.drafter
        self.drafter = drafter.make_cache() if drafter else []
        self.broken = False

    def evaluate(self, features: mx.array | None = None) -> None:
        """Evaluate all arrays, so that any thread can go on with these caches. What is
        pending in MLX can be evaluated only by the thread that made it.

        Args:
            features: Evaluated together with them, if given.
        """
        contexts = [array for entry in self.drafter for array in entry.arrays()]
        mx.eval([entry.state for entry in self.target], contexts, features)

    def settle(self) -> None:
        """Cut both caches to exactly `rows` rows; the target's only if possible."""
        rows = self.rows
        if rollback.can_cut_to(self.target, rows):
            rollback.cut_to(self.target, rows)
        for entry in self.drafter:
            # Also by 0 rows: an interruption may have left rows without positions.
            entry.cut(max(0, entry.offset - rows))
            entry.skip(rows - entry.offset)

    def take_back(self, tokens: int) -> None:
        """Remove the last `tokens` tokens of the text, and their rows.

        One token is left to pass if the caches can be cut so far. If they cannot be cut
        at all, they return to a snapshot or to nothing; the tokens behind it are passed
        again by the next decoding.
        """
        text = self.text[: len(self.text) - tokens]
        if self.broken:
            self.text, self.rows = text, min(self.rows, len(text))
            return
        rows = min(self.rows, len(text))
        if rows == len(text) and rows and self._can_cut(rows - 1):
            rows -= 1
        kept = self._keep(rows)
        self.text += text[kept:]

    def new_tokens(self, prompt: list[int]) -> list[int]:
        """The tokens of a prompt that follow the text.

        What the last `reuse` returned is such a prompt, however it begins. Any other
        that begins as the text does holds the whole conversation, so `reuse` is called
        with it. It begins so if one is the beginning of the other, or if the first
        SAME_START tokens are the same.

        Args:
            prompt: The whole conversation, or what follows the text.
        """
        shared = common_prefix(self.text, prompt)
        start = min(len(self.text), len(prompt), SAME_START)
        if prompt != self._left and shared >= max(start, MIN_START):
            prompt = self.reuse(prompt)
        self._left = []
        return prompt

    def reuse(self, prompt: Sequence[int], marks: Sequence[int] = ()) -> list[int]:
        """Keep the rows that `prompt` shares with the text; return its other tokens.

        This keeps the longest common prefix if every layer can be cut to it, else the
        longest snapshot inside it, else nothing. At least one token is left to pass,
        since the first logits are those of its row.

        If the caches need snapshots, prefill takes them at the marks, before the
        prompt's last token (for the same prompt again), and at the end of the common
        prefix if the prompt parts from the text there, as a later one may.

        Args:
            prompt: All tokens of the prompt.
            marks: Numbers of leading tokens at which later prompts may part from this
                one; see chat_template.marks.
        """
        self.release()
        last = len(prompt) - 1
        shared = min(common_prefix(self.text, prompt), self.rows, last)
        parts = shared < min(self.rows, last)
        kept = self._keep(shared)
        self.marks = []
        if self.snapshots.most and snapshots.need_snapshots(self.target, self.drafter):
            stops = {*marks, last, *([shared] if parts else [])}
            self.marks = sorted(at for at in stops if max(kept, 1) <= at <= last)
        self.evaluate()
        self._left = list(prompt[kept:])
        return list(self._left)

    def _keep(self, rows):
        """Keep the first `rows` rows or as many as possible; return the number."""
        self.snapshots.drop_behind(rows)
        if self.broken or not self._can_cut(rows):
            rows = self._restore(rows)
        self._cut_text(rows)
        self.settle()
        if (held := self.snapshots.latest(rows)) and not self.broken:
            held.fill(self.drafter, rows)
            self.settle()
        return rows

    def _can_cut(self, rows):
        if rows == self.rows:
            return True
        return self.stays_quantized(rows) and rollback.can_cut_to(self.target, rows)

    def _restore(self, rows):
        """Restore the longest snapshot of at most `rows` rows, or reset; return its
        rows."""
        held = self.snapshots.latest(rows)
        if held is None or not self.stays_quantized(held.rows):
            self.reset()
            return 0
        self.broken = True  # in case this is interrupted
        held.restore(self.target, self.drafter)
        self._cut_text(held.rows)
        self.broken = False
        return held.rows

    def _cut_text(self, rows):
        self.rows = rows
        del self.text[rows:]

    def stays_quantized(self, rows):
        """Whether a new cache of `rows` rows would be quantized as this one is."""
        return self.quantized_from is None or rows >= self.quantized_from

    def to_mark(self) -> int:
        """Rows left before the next mark, or a huge number when there is none."""
        return next((at - self.rows for at in self.marks if at > self.rows), 2**62)

    def snapshot(self, rows: int | None = None) -> None:
        """Take a snapshot if there is a mark here that has none.

        Args:
            rows: The number of rows in the drafter's context, if the target's cache,
                which can then be cut, has more.
        """
        rows = self.rows if rows is None else rows
        if rows in self.marks and not self.snapshots.at(rows):
            self.snapshots.put(snapshots.take_snapshot(rows, self.target, self.drafter))

    def quantize(self, options: KVBits) -> None:
        """Quantize the target's caches that have enough rows.

        Args:
            options: Without `bits` nothing is quantized.
        """
        values = options.bits, options.group_size, options.start
        if options.bits and kinds.quantize(self.target, *values):
            self.quantized_from = options.start


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading items that two sequences share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
