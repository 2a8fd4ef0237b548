"""The gated delta rule of a loaded model's layers, by a kernel where one is to run.

Owns what stands in for mlx-lm's `gated_delta_update` in a layer's own methods, and what
is left of a call to find its states again. Knows no layer and no cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.models.gated_delta import (
    gated_delta_kernel,
    gated_delta_ops,
    gated_delta_update,
)

from ..rebind import rebind
from .dispatch import Dispatch
from .gate import Operation
from .gated_delta_block import BLOCK, REWIND, like
from .kernel import Case, named


def _first(case: Case, row: int) -> Case:
    """The call over the rows up to one."""
    names = ("q", "k", "v", "g", "beta")
    return case | {name: case[name][:, : row + 1] for name in names}


DELTA = Operation(
    "gated delta rule",
    (BLOCK,),
    BLOCK,
    lambda q, k, v, g, beta, state: gated_delta_kernel(q, k, v, g, beta, state),
    like,
    _first,
    gain=-0.02,  # what it saves is the state's way back, which is not raced
    needs=(REWIND,),
)


class Tape:
    """What a call left: enough for the state after any of its rows.

    Args:
        dispatch: Whose kernel ran.
        case: Its arguments.
        delta: Each row's innovation.
    """

    def __init__(self, dispatch: Dispatch, case: Case, delta: mx.array):
        self.dispatch, self.case, self.delta = dispatch, case, delta

    def state_after(self, keep: int) -> mx.array | None:
        """The state after the first `keep` rows; None where the kernel fails."""
        if keep == 0:
            return self.case["state"]
        held = {name: self.case[name] for name in ("state", "k", "g")}
        return self.dispatch.launch(REWIND, held | {"delta": self.delta, "keep": keep})


class DeltaRule:
    """Called as mlx-lm's `gated_delta_update`, with its results.

    Args:
        dispatch: Who decides.

    Attributes:
        tape: Of the last call; None where MLX's own operations ran.
    """

    def __init__(self, dispatch: Dispatch):
        self.dispatch = dispatch
        self.tape: Tape | None = None
        # Both, as mlx-lm takes the one or the other by the device.
        self._update = rebind(
            gated_delta_update,
            gated_delta_kernel=partial(self._rule, gated_delta_kernel),
            gated_delta_ops=partial(self._rule, gated_delta_ops),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[mx.array, mx.array]:
        """y and the state after the last row."""
        self.tape = None
        return self._update(*args, **kwargs)

    def _rule(self, stock, q, k, v, g, beta, state, mask=None):
        case = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "state": state}
        if mask is not None or BLOCK.refuses(**case):
            return stock(q, k, v, g, beta, state, mask)
        shape = "{} heads of {} on {} of {}, {}{}".format(
            *v.shape[2:],
            *k.shape[2:],
            named(q.dtype),
            ", gates per element" if g.ndim == 4 else "",
        )
        out = self.dispatch.call(DELTA, shape, k.shape[1], case)
        if out is None:
            return stock(q, k, v, g, beta, state)
        y, last, delta = out
        self.tape = Tape(self.dispatch, case, delta)
        return y, last
