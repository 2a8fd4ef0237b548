"""Recurrent layers after a partial acceptance: the state behind the accepted rows.

A recurrent layer ends a block with the state after its last row, and the states in
between are gone. So the pass over a block notes, for every module that is handed a
recurrent state, that state and what its projections, convolutions and norms gave. If
the target accepts only some rows, the old state is put back and the module's own
code runs again on those rows, with the noted outputs in place of the computations:
what is left to compute is the recurrence itself. Nothing is computed when all rows
were accepted. Notes hold rows of the block, never states per row.

Works on any mlx-lm layer, whatever its recurrence; knows no family. For the recurrence
that most targets have there is a short cut: where a module called mlx-lm's
`gated_delta_update`, the call itself was noted, and the windows of its convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache

from ...cache import rollback
from ...metal.delta_rule import DeltaRule
from ...metal.delta_rule import Tape as DeltaTape
from ...rebind import find_global
from .delta import state_after
from .views import watched, with_children, with_function


@dataclass
class Step:
    """One module's pass over a block.

    Args:
        run: The module's stock call.
        args, kwargs: What it was called with.
        entry: Its recurrent cache.
        before: The state before the pass.
        rows: Rows of the block.
        outputs: By submodule, (input shape, output) of its calls, in order.
        windows: Inputs of its convolutions, old rows first, in order.
        delta: Arguments of its call of the gated delta rule.
        tape: What a kernel left of that call.
    """

    run: Callable
    args: tuple
    kwargs: dict[str, Any]
    entry: ArraysCache
    before: list[Any]
    rows: int
    outputs: dict[int, list[tuple[tuple[int, ...], mx.array]]] = field(
        default_factory=dict
    )
    windows: list[mx.array] = field(default_factory=list)
    delta: tuple[tuple, dict[str, Any]] | None = None
    tape: DeltaTape | None = None

    @property
    def short(self) -> bool:
        """Whether the state is that of one delta rule behind convolutions."""
        return self.delta is not None and len(self.windows) + 1 == len(self.before)

    def cut_short(self, keep: int) -> None:
        """Give the layer the state after `keep` rows from what was noted."""
        end = keep - self.rows
        held = [
            mx.contiguous(window[:, keep : window.shape[1] + end])
            for window in self.windows
        ]
        state = self.tape.state_after(keep) if self.tape else None
        if state is None:
            state = state_after(keep, *self.delta)
        rollback.put_back(self.entry, [*held, state])


class Tape:
    """Notes of one pass over a block.

    Args:
        recorder: Who runs the watched modules.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.steps: list[Step] = []

    def rewind(self, keep: int) -> None:
        """Give every recurrent layer the state after the block's first `keep` rows."""
        back: set[int] = set()
        for step in self.steps:
            if step.short:
                step.cut_short(keep)
                continue
            if id(step.entry) not in back:  # a layer may have two such modules
                back.add(id(step.entry))
                rollback.put_back(step.entry, step.before)
            self.recorder.replay(step, keep)


class Recorder:
    """Watches the recurrent modules of one view: notes on a tape, or replays one."""

    def __init__(self):
        self.tape: Tape | None = None
        self.step: Step | None = None
        self.played: dict[int, int] | None = None

    def layer(self, layer: nn.Module) -> nn.Module:
        """A copy of a decoder layer whose recurrent parts are watched."""

        def mixer(child):
            twin = with_children(child, self._part)
            rule = find_global(type(child), "gated_delta_update")
            if rule is not None:
                noted = partial(self._delta, rule)
                twin = with_function(twin, "gated_delta_update", noted)
            return watched(twin, self._mix)

        return with_children(layer, mixer)

    @contextmanager
    def noting(self, tape: Tape) -> Iterator[None]:
        """Note on `tape` what happens meanwhile."""
        self.tape = tape
        try:
            yield
        finally:
            self.tape = None

    def replay(self, step: Step, keep: int) -> None:
        """Run a module again on the first rows of its block."""

        def first(value):
            if isinstance(value, mx.array) and value.shape[1:2] == (step.rows,):
                return value[:, :keep]
            return value

        self.step, self.played = step, {}
        try:
            step.run(
                *(first(value) for value in step.args),
                **{name: first(value) for name, value in step.kwargs.items()},
            )
        finally:
            self.step = self.played = None

    def _mix(self, run, *args, **kwargs):
        """A child of a layer: what it does with a recurrent state is noted."""
        values = (*args, *kwargs.values())
        entry = next((v for v in values if type(v) is ArraysCache), None)
        if self.tape is None or entry is None:
            return run(*args, **kwargs)
        rows = next(v for v in values if isinstance(v, mx.array)).shape[1]
        step = Step(run, args, kwargs, entry, rollback.held(entry), rows)
        self.tape.steps.append(step)
        self.step = step
        try:
            return run(*args, **kwargs)
        finally:
            self.step = None

    def _delta(self, rule, *args, **kwargs):
        """The layer's gated delta rule; its arguments are noted."""
        out = rule(*args, **kwargs)
        if self.step is not None and self.played is None:
            self.step.delta = args, kwargs
            self.step.tape = rule.tape if isinstance(rule, DeltaRule) else None
        return out

    def _part(self, module):
        key = id(module)

        def call(run, *args, **kwargs):
            step = self.step
            alone = len(args) == 1 and not kwargs and isinstance(args[0], mx.array)
            if step is None or not alone:
                return run(*args, **kwargs)
            if self.played is not None:
                return self._noted(key, args[0], run)
            self.step = None  # what is inside need not be noted as well
            out = run(args[0])
            self.step = step
            if isinstance(module, nn.Conv1d):
                step.windows.append(args[0])
            if isinstance(out, mx.array):
                step.outputs.setdefault(key, []).append((args[0].shape, out))
            return out

        return watched(with_children(module, self._part), call)

    def _noted(self, key, x, run):
        """The noted output for the rows in `x`, or a fresh one if none fits."""
        calls, at = self.step.outputs.get(key, ()), self.played.get(key, 0)
        self.played[key] = at + 1
        if at < len(calls) and len(calls[at][0]) == x.ndim:
            shape, out = calls[at]
            shorter = [i for i, n in enumerate(shape) if n != x.shape[i]]
            if not shorter:
                return out
            if len(shorter) == 1:
                axis = shorter[0]
                rows = out.shape[axis] - (shape[axis] - x.shape[axis])
                return out[(slice(None),) * axis + (slice(0, rows),)]
        return run(x)
