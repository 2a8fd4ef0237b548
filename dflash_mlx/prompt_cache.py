"""Which tokens a pair's caches hold, and how much of them a new prompt can keep.

Layers that only grow can be cut back to any row. States of recurrent layers and sliding
windows cannot, so they are remembered at marks: rows at which a later prompt is likely
to part from this one. Knows tokens and rows; what is inside a target's cache is
rollback.py's business, and where a chat's next turn parts chat_template.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import QuantizedKVCache

from . import kv, rollback
from .pair import Pair
from .types import KVBits, require


class Owner(Protocol):
    """A decoding under way."""

    def close(self) -> None:
        """Leave the caches in order and let them go."""


# Bytes that snapshots may take: some dozen of a hybrid model's states.
SNAPSHOT_BYTES = 1 << 30


@dataclass(frozen=True)
class Snapshot:
    """What caches were at a row, as far as a cut does not bring it back.

    Args:
        rows: Tokens that they held.
        target: From rollback.snapshot.
        drafter: From each ContextCache.
    """

    rows: int
    target: list[Any]
    drafter: list[Any]

    def arrays(self) -> list[mx.array]:
        """All arrays of it."""
        leaves = tree_flatten([self.target, self.drafter])
        return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(array.nbytes for array in self.arrays())


class PromptCache:
    """The caches of one conversation: target and drafter, always in step.

    Args:
        pair: Whose caches.
        max_kv_size: Most rows that a layer of the target keeps; the first
            few and the last ones stay. None keeps all.
        snapshot_bytes: Bytes that snapshots may take. Beyond it the oldest goes,
            but the very first last: it is the one behind a long document.

    Raises:
        OptionError: max_kv_size is too small, or the target has nothing to bound.

    Attributes:
        tokens: The tokens whose rows the target's cache holds.
        tail: Tokens that were produced but not passed through the target yet (the
            last one of an answer); they are fed first next time.
        target: The target's cache, one entry a layer.
        drafter: The drafter's context; empty without a drafter.
        owner: Who decodes with it now; settles it in the end.
        broken: An interruption left rows that cannot be undone; `reuse` then goes back
            to a snapshot, or starts afresh, as `reset` does.
        marks: Numbers of tokens at which to take a snapshot when they are passed.
        snapshots: Those that were taken, by rows.
        quantized_from: Rows from which on the target's cache is quantized; None if it
            is not.
    """

    def __init__(
        self,
        pair: Pair,
        max_kv_size: int | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ):
        require(
            max_kv_size is None or max_kv_size > kv.KEPT_ROWS,
            "max_kv_size",
            f"more than {kv.KEPT_ROWS}",
            max_kv_size,
        )
        self._pair, self.max_kv_size = pair, max_kv_size
        self.snapshot_bytes = snapshot_bytes
        self.owner: Owner | None = None
        self.reset()

    def fits(self, pair: Pair) -> bool:
        """Whether `pair` can go on from these caches."""
        ours = self._pair
        return pair.model is ours.model and pair.drafter is ours.drafter

    def release(self) -> None:
        """End a decoding that is suspended with these caches, as its close does."""
        if self.owner is not None:
            self.owner.close()

    def reset(self) -> None:
        """Forget everything."""
        self.owner = None
        self.tokens: list[int] = []
        self.tail: list[int] = []
        self.broken = False
        self.marks: set[int] = set()
        self.snapshots: list[Snapshot] = []
        self.quantized_from: int | None = None
        self.target = self._pair.target.make_cache(self.max_kv_size)
        drafter = self._pair.drafter
        self.drafter = drafter.make_cache() if drafter else []

    def settle(self) -> None:
        """Make both caches hold exactly `tokens`; the target's if it can be cut."""
        rows = len(self.tokens)
        if rollback.can_cut_to(self.target, rows):
            rollback.cut_to(self.target, rows)
        for entry in self.drafter:
            if entry.offset > rows:
                entry.cut(entry.offset - rows)
            else:
                entry.skip(rows - entry.offset)

    @property
    def forgets(self) -> bool:
        """Whether marks are of use: some layer cannot be cut back at will."""
        return rollback.forgets(self.target) or any(e.window for e in self.drafter)

    @property
    def nbytes(self) -> int:
        """Bytes of both caches and the snapshots."""
        rows = [entry.state for entry in kv.flat(self.target)]
        leaves = [leaf for _, leaf in tree_flatten(rows)]
        leaves += [array for entry in self.drafter for array in entry.arrays()]
        held = sum(leaf.nbytes for leaf in leaves if isinstance(leaf, mx.array))
        return held + sum(snapshot.nbytes for snapshot in self.snapshots)

    def reuse(self, prompt: Sequence[int], marks: Collection[int] = ()) -> list[int]:
        """Keep the longest common prefix with `prompt`; return what is left of it.

        At least one token is left, since its row gives the first logits. Where the
        target's cache cannot be cut back, it goes back to the last snapshot before.

        Args:
            prompt: Token ids of the whole text.
            marks: Numbers of its leading tokens at which a later prompt may part from
                it; the end of the prompt is always one.
        """
        self.release()
        last = len(prompt) - 1
        self._keep(min(common_prefix(self.tokens, prompt), last))
        self.marks = {min(mark, last) for mark in (*marks, last)}
        return list(prompt[len(self.tokens) :])

    def _keep(self, keep):
        """Leave the caches with the first `keep` tokens, or fewer."""
        if keep < (self.quantized_from or 0):  # where a fresh run's would not be
            self.reset()
            return
        self.snapshots = [s for s in self.snapshots if s.rows <= keep]
        whole = keep == len(self.tokens) or rollback.can_cut_to(self.target, keep)
        if whole and not self.broken:
            del self.tokens[keep:]
        elif self.snapshots:
            snapshot = self.snapshots[-1]
            rollback.restore(self.target, snapshot.target, snapshot.rows)
            del self.tokens[snapshot.rows :]
        else:
            self.reset()
            return
        self._restore_context()
        self.tail, self.broken = [], False
        self.settle()

    def _restore_context(self):
        """Give the drafter what it has dropped since the last snapshot."""
        for i, entry in enumerate(self.drafter):
            saved = self.snapshots[-1].drafter[i] if self.snapshots else None
            if saved and entry.rows_before(len(self.tokens)) < saved.rows:
                entry.restore(saved)

    def until_mark(self) -> int:
        """How many tokens the next mark is ahead; very many without one."""
        ahead = (mark - len(self.tokens) for mark in self.marks)
        return min((rows for rows in ahead if rows > 0), default=2**62)

    def quantize(self, bits: KVBits) -> None:
        """Quantize the target's cache once it is long enough, as mlx-lm does."""
        if bits.bits:
            kv.quantize(self.target, bits.bits, bits.group_size, bits.start)
            if any(type(e) is QuantizedKVCache for e in kv.flat(self.target)):
                self.quantized_from = bits.start

    def remember(self) -> None:
        """Take a snapshot if the tokens held are as many as a mark says."""
        rows = len(self.tokens)
        taken = {snapshot.rows for snapshot in self.snapshots}
        if rows not in self.marks or rows in taken or not self.forgets:
            return
        context = [entry.snapshot() if entry.window else None for entry in self.drafter]
        snapshot = Snapshot(rows, rollback.snapshot(self.target), context)
        mx.eval(snapshot.arrays())
        self.snapshots.append(snapshot)
        while sum(each.nbytes for each in self.snapshots) > self.snapshot_bytes:
            del self.snapshots[1 if len(self.snapshots) > 2 else 0]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items two sequences share."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
        min(len(a), len(b)),
    )
