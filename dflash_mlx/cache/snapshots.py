"""Copies of what cannot be cut back, taken at rows that a later prompt may return to.

Owns the copies, what they cost and which of them go. Layers that keep every row are cut
instead and need none; states of recurrent layers, rows of rotating windows and a
drafter's windowed context do. Knows rows, not tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .. import device
from . import rollback
from .context import ContextCache, rows_seen
from .kinds import flat
from .state import (
    State,
    grows,
    put_back,
    read,
)

# A 27B hybrid's state has 150 MB: about six fit.
MOST_BYTES = device.GIB
# Of the memory that a small machine has.
SHARE = 16


def default_bytes() -> int:
    """Bytes of snapshots that this machine can spare for a conversation."""
    return min(MOST_BYTES, device.memory_bytes() // SHARE)


def needed(target: list[Any], drafter: list[ContextCache]) -> bool:
    """Whether something of these caches cannot be cut back, and can be copied."""
    layers = list(flat(target))
    if not all(rollback.known(entry) for entry in layers):
        return False
    windowed = any(entry.window is not None for entry in drafter)
    return windowed or not all(grows(entry) for entry in layers)


@dataclass(frozen=True)
class Snapshot:
    """What caches held of a text's first `rows` tokens.

    Args:
        rows: How many.
        target: By number of the layer's cache (those in lists one by one).
        drafter: By number of the context.
    """

    rows: int
    target: dict[int, State]
    drafter: dict[int, State]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(s.nbytes for s in (*self.target.values(), *self.drafter.values()))

    def restore(self, target: list[Any], drafter: list[ContextCache]) -> None:
        """Bring caches that hold more of the same text back to these rows."""
        for i, entry in enumerate(flat(target)):
            if i in self.target:
                put_back(entry, self.target[i])
            else:
                rollback.cut_to([entry], self.rows)
        for i, state in self.drafter.items():
            drafter[i].put_back(state)

    def fill(self, drafter: list[ContextCache], rows: int) -> None:
        """Put contexts back that, once cut to `rows`, know less than this."""
        for i, state in self.drafter.items():
            entry = drafter[i]
            if rows_seen(state.numbers["runs"], rows, entry.window) > entry.seen(rows):
                entry.put_back(state)


def take(rows: int, target: list[Any], drafter: list[ContextCache]) -> Snapshot:
    """Copy what cannot be cut back of caches that hold `rows` rows."""
    layers = {i: read(e) for i, e in enumerate(flat(target)) if not grows(e)}
    contexts = {i: e.read() for i, e in enumerate(drafter) if e.window is not None}
    states = (*layers.values(), *contexts.values())
    mx.eval([array for state in states for array in state.held()])
    return Snapshot(rows, layers, contexts)


class SnapshotStore:
    """The snapshots of one text, within a budget.

    The newest stays while it fits: /retry and /undo want it. Of the others that one
    goes first that saves the fewest rows over the one below it, so that a long first
    prompt keeps its own and what is left lies spread over the text.

    Args:
        most: Bytes of all of them.
    """

    def __init__(self, most: int):
        self.most = most
        self.all: list[Snapshot] = []  # by rows

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(snapshot.nbytes for snapshot in self.all)

    def at(self, rows: int) -> bool:
        """Whether there is one of exactly these rows."""
        return any(snapshot.rows == rows for snapshot in self.all)

    def put(self, snapshot: Snapshot) -> None:
        """Keep one of more rows than all that are there, if the budget allows it."""
        if snapshot.nbytes > self.most:
            return
        self.all = [*self.all, snapshot]
        while self.nbytes > self.most:
            self._evict()

    def latest(self, rows: int) -> Snapshot | None:
        """The longest of at most `rows` rows."""
        return next((s for s in reversed(self.all) if s.rows <= rows), None)

    def drop_behind(self, rows: int) -> None:
        """Forget those of more than `rows` rows."""
        self.all = [snapshot for snapshot in self.all if snapshot.rows <= rows]

    def _evict(self):
        """Forget the one, of all but the newest, that saves the fewest rows."""
        below = [0, *(snapshot.rows for snapshot in self.all)]
        saved = [s.rows - below[i] for i, s in enumerate(self.all[:-1])]
        least = saved.index(min(saved))
        self.all = [s for i, s in enumerate(self.all) if i != least]
