"""Rolls recurrent layers back after a block of which only some rows were accepted.

A recurrent layer ends a block with the state after its last row; the states in between
are gone. So the pass over a block records, for every module that gets a recurrent
state, that state and the outputs of its projections, convolutions and norms. If only
some rows are accepted, the old state is put back and the module's own code runs again
on those rows, with the recorded outputs in place of the computations; what is left to
compute is the recurrence. If all rows are accepted, nothing is computed. Recordings
hold rows of the block, never a state per row.

Works on any mlx-lm layer, whatever its recurrence. Does not know families. The
recurrence of most targets has a shortcut: if a module called mlx-lm's
`gated_delta_update`, the call itself and the inputs of the convolutions are recorded.
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
from .views import with_call, with_children, with_function


@dataclass
class Step:
    """The recording of one module's pass over a block.

    Args:
        run: The module's stock call.
        args, kwargs: Its arguments.
        entry: The module's recurrent cache.
        before: The recurrent state before the pass.
        rows: Rows of the block.
        outputs: By id of a submodule, (input shape, output) of its calls, in order.
        windows: Inputs of the convolutions, with the rows before the block, in order.
        delta: Arguments of the call of the gated delta rule.
        tape: What a kernel recorded of that call.
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
    def has_shortcut(self) -> bool:
        """Whether the state is that of one delta rule and some convolutions."""
        return self.delta is not None and len(self.windows) + 1 == len(self.before)

    def restore_by_shortcut(self, keep: int) -> None:
        """Set the state after `keep` rows from the delta rule and the convolutions."""
        end = keep - self.rows
        windows = [
            mx.contiguous(window[:, keep : window.shape[1] + end])
            for window in self.windows
        ]
        state = self.tape.state_after(keep) if self.tape else None
        if state is None:
            state = state_after(keep, *self.delta)
        rollback.set_recurrent_state(self.entry, [*windows, state])


class Tape:
    """The recording of one pass over a block.

    Args:
        recorder: The recorder of the view that made the pass.

    Attributes:
        steps: One for each module with a recurrent state, in order.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.steps: list[Step] = []

    def rewind(self, keep: int) -> None:
        """Set every recurrent layer to the state after the first `keep` rows."""
        restored: set[int] = set()
        for step in self.steps:
            if step.has_shortcut:
                step.restore_by_shortcut(keep)
                continue
            # A layer may have two modules that share a cache.
            if id(step.entry) not in restored:
                restored.add(id(step.entry))
                rollback.set_recurrent_state(step.entry, step.before)
            self.recorder.replay(step, keep)


class Recorder:
    """Records the passes of one view's recurrent modules on tapes, and replays them.

    Attributes:
        tape: The tape to record on; None if passes are not recorded.
        step: The module's pass that is being recorded or replayed.
        replayed: While replaying, the number of calls so far by id of a submodule.
    """

    def __init__(self):
        self.tape: Tape | None = None
        self.step: Step | None = None
        self.replayed: dict[int, int] | None = None

    def wrap_layer(self, layer: nn.Module) -> nn.Module:
        """A copy of a decoder layer that this recorder can record and replay."""

        def wrap_child(child):
            copied = with_children(child, self._wrap_part)
            rule = find_global(type(child), "gated_delta_update")
            if rule is not None:
                recorded = partial(self._call_delta, rule)
                copied = with_function(copied, "gated_delta_update", recorded)
            return with_call(copied, self._call_child)

        return with_children(layer, wrap_child)

    @contextmanager
    def recording(self, tape: Tape) -> Iterator[None]:
        """Record the passes inside this context on `tape`."""
        self.tape = tape
        try:
            yield
        finally:
            self.tape = None

    def replay(self, step: Step, keep: int) -> None:
        """Run a recorded module again on the first `keep` rows of its block."""

        def first_rows(value):
            if isinstance(value, mx.array) and value.shape[1:2] == (step.rows,):
                return value[:, :keep]
            return value

        self.step, self.replayed = step, {}
        try:
            step.run(
                *(first_rows(value) for value in step.args),
                **{name: first_rows(value) for name, value in step.kwargs.items()},
            )
        finally:
            self.step = self.replayed = None

    def _call_child(self, run, *args, **kwargs):
        """Call a child of a layer; record it if it gets a recurrent state."""
        values = (*args, *kwargs.values())
        entry = next((v for v in values if type(v) is ArraysCache), None)
        if self.tape is None or entry is None:
            return run(*args, **kwargs)
        rows = next(v for v in values if isinstance(v, mx.array)).shape[1]
        step = Step(run, args, kwargs, entry, rollback.recurrent_state(entry), rows)
        self.tape.steps.append(step)
        self.step = step
        try:
            return run(*args, **kwargs)
        finally:
            self.step = None

    def _call_delta(self, rule, *args, **kwargs):
        """Call a module's gated delta rule; record its arguments."""
        out = rule(*args, **kwargs)
        if self.step is not None and self.replayed is None:
            self.step.delta = args, kwargs
            self.step.tape = rule.tape if isinstance(rule, DeltaRule) else None
        return out

    def _wrap_part(self, module):
        """A copy of a submodule, and of its own children, that records its outputs."""
        key = id(module)

        def call(run, *args, **kwargs):
            step = self.step
            alone = len(args) == 1 and not kwargs and isinstance(args[0], mx.array)
            if step is None or not alone:
                return run(*args, **kwargs)
            if self.replayed is not None:
                return self._recorded_output(key, args[0], run)
            self.step = None  # the output includes what the children compute
            out = run(args[0])
            self.step = step
            if isinstance(module, nn.Conv1d):
                step.windows.append(args[0])
            if isinstance(out, mx.array):
                step.outputs.setdefault(key, []).append((args[0].shape, out))
            return out

        return with_call(with_children(module, self._wrap_part), call)

    def _recorded_output(self, key, x, run):
        """The first rows of a recorded output, or `run(x)` if no recording fits."""
        calls, at = self.step.outputs.get(key, ()), self.replayed.get(key, 0)
        self.replayed[key] = at + 1
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
