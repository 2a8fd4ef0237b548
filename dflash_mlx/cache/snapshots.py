"""Copies of caches that cannot be cut, at rows to which a later prompt may return.

Owns the copies, their budget and which of them are dropped. Recurrent states, rotating
windows and a drafter's windowed context need copies; layers that keep every row are cut
instead. Does not know tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .. import device
from . import rollback
from .context import ContextCache, visible_rows
from .kinds import flat
from .state import (
    State,
    can_cut_anywhere,
    put_back,
    read,
)

# The recurrent state of a hybrid model of 27B takes 150 MB: about six fit.
MOST_BYTES = device.GIB
# A small machine spares one part in this many of its memory.
MEMORY_SHARE = 16


def default_bytes() -> int:
    """The default budget of a conversation's snapshots on this machine, in bytes."""
    return min(MOST_BYTES, device.memory_bytes() // MEMORY_SHARE)


def need_snapshots(target: list[Any], drafter: list[ContextCache]) -> bool:
    """Whether some of these caches cannot be cut, and all of them can be copied."""
    layers = list(flat(target))
    if not all(rollback.has_rule(entry) for entry in layers):
        return False
    windowed = any(entry.window is not None for entry in drafter)
    return windowed or not all(can_cut_anywhere(entry) for entry in layers)


@dataclass(frozen=True)
class Snapshot:
    """The contents of caches after the first `rows` tokens of a text.

    Args:
        rows: The number of tokens.
        target: By index of a layer's cache in `kinds.flat`; only those that cannot be
            cut.
        drafter: By index of a context; only those with a window.
    """

    rows: int
    target: dict[int, State]
    drafter: dict[int, State]

    @property
    def nbytes(self) -> int:
        """The size of the arrays in bytes."""
        return sum(s.nbytes for s in (*self.target.values(), *self.drafter.values()))

    def restore(self, target: list[Any], drafter: list[ContextCache]) -> None:
        """Return caches that hold more of the same text to these rows."""
        for i, entry in enumerate(flat(target)):
            if i in self.target:
                put_back(entry, self.target[i])
            else:
                rollback.cut_to([entry], self.rows)
        for i, state in self.drafter.items():
            drafter[i].put_back(state)

    def fill(self, drafter: list[ContextCache], rows: int) -> None:
        """Put back the contexts that, cut to `rows`, have fewer visible rows than this
        snapshot."""
        for i, state in self.drafter.items():
            entry = drafter[i]
            runs = state.numbers["runs"]
            if visible_rows(runs, rows, entry.window) > entry.seen(rows):
                entry.put_back(state)


def take_snapshot(
    rows: int, target: list[Any], drafter: list[ContextCache]
) -> Snapshot:
    """Copy the caches that cannot be cut; all of them hold `rows` rows."""
    layers = {i: read(e) for i, e in enumerate(flat(target)) if not can_cut_anywhere(e)}
    contexts = {i: e.read() for i, e in enumerate(drafter) if e.window is not None}
    states = (*layers.values(), *contexts.values())
    mx.eval([array for state in states for array in state.present_arrays()])
    return Snapshot(rows, layers, contexts)


class SnapshotStore:
    """The snapshots of one text, within a budget.

    The newest snapshot is kept as long as it fits, for /retry and /undo. Of the others,
    the first to be dropped is the one that saves the fewest rows over the snapshot
    before it. So a long first prompt keeps its snapshot, and the rest are spread over
    the text.

    Args:
        most: The budget of all snapshots in bytes.

    Attributes:
        all: The snapshots, by number of rows.
    """

    def __init__(self, most: int):
        self.most = most
        self.all: list[Snapshot] = []

    @property
    def nbytes(self) -> int:
        """The size of all snapshots in bytes."""
        return sum(snapshot.nbytes for snapshot in self.all)

    def at(self, rows: int) -> bool:
        """Whether there is a snapshot of exactly these rows."""
        return any(snapshot.rows == rows for snapshot in self.all)

    def put(self, snapshot: Snapshot) -> None:
        """Add a snapshot of more rows than all others, if the budget allows it."""
        if snapshot.nbytes > self.most:
            return
        self.all = [*self.all, snapshot]
        while self.nbytes > self.most:
            self._evict()

    def latest(self, rows: int) -> Snapshot | None:
        """The longest snapshot of at most `rows` rows, or None."""
        return next((s for s in reversed(self.all) if s.rows <= rows), None)

    def drop_behind(self, rows: int) -> None:
        """Drop the snapshots of more than `rows` rows."""
        self.all = [snapshot for snapshot in self.all if snapshot.rows <= rows]

    def _evict(self):
        """Drop the snapshot, of all but the newest, that saves the fewest rows."""
        before = [0, *(snapshot.rows for snapshot in self.all)]
        saved = [s.rows - before[i] for i, s in enumerate(self.all[:-1])]
        least = saved.index(min(saved))
        self.all = [s for i, s in enumerate(self.all) if i != least]
