"""The gated delta rule of a model's layers, run by a kernel where the dispatch has one.

Owns the function that replaces mlx-lm's `gated_delta_update` in a layer's methods, and
the tape of a call, which gives back the state after any of its rows. Knows no layer and
no cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.gated_delta import (
    gated_delta_kernel,
    gated_delta_ops,
    gated_delta_update,
)

from ..rebind import rebind
from .dispatch import Dispatch
from .gated_delta_block import BLOCK, REWIND, sample_like
from .kernel import Case, dtype_names
from .operation import Operation


class DeltaShape(NamedTuple):
    """What a verdict on the gated delta rule depends on besides the rows."""

    v_heads: int
    value_dim: int
    k_heads: int
    key_dim: int
    dtype: mx.Dtype
    gate_per_element: bool

    def __str__(self) -> str:
        values = f"{self.v_heads} heads of {self.value_dim}"
        keys = f"{self.k_heads} of {self.key_dim}"
        gates = ", gates per element" if self.gate_per_element else ""
        return f"{values} on {keys}, {dtype_names(self.dtype)}{gates}"


def _rows_up_to(case: Case, row: int) -> Case:
    """The case of a row and the rows before it, on which its result depends."""
    names = ("q", "k", "v", "g", "beta")
    return case | {name: case[name][:, : row + 1] for name in names}


DELTA = Operation(
    "gated delta rule",
    (BLOCK,),
    BLOCK,
    stock=lambda q, k, v, g, beta, state: gated_delta_kernel(q, k, v, g, beta, state),
    sample=sample_like,
    row_alone=_rows_up_to,
    min_saving=-0.02,  # the rollback that it saves is not part of the race
    companions=(REWIND,),
)


class Tape:
    """What is kept of a call to compute the state after any of its rows.

    Args:
        dispatch: The dispatch that ran the call.
        case: The call's arguments.
        delta: Each row's innovation [B, T, Hv, Dv].
    """

    def __init__(self, dispatch: Dispatch, case: Case, delta: mx.array):
        self.dispatch, self.case, self.delta = dispatch, case, delta

    def state_after(self, keep: int) -> mx.array | None:
        """The state after the first `keep` rows; None if the kernel fails."""
        if keep == 0:
            return self.case["state"]
        case = {name: self.case[name] for name in ("state", "k", "g")}
        return self.dispatch.launch(REWIND, case | {"delta": self.delta, "keep": keep})


class DeltaRule:
    """Has the arguments and results of mlx-lm's `gated_delta_update`.

    Args:
        dispatch: Chooses the kernel.

    Attributes:
        tape: The tape of the last call; None if MLX's own operations ran it.
    """

    def __init__(self, dispatch: Dispatch):
        self.dispatch = dispatch
        self.tape: Tape | None = None
        # mlx-lm calls one of the two, depending on the device.
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
        if mask is not None or BLOCK.refusal(**case):
            return stock(q, k, v, g, beta, state, mask)
        shape = DeltaShape(*v.shape[2:], *k.shape[2:], q.dtype, g.ndim == 4)
        result = self.dispatch.call(DELTA, shape, k.shape[1], case)
        if result is None:
            return stock(q, k, v, g, beta, state)
        y, last, delta = result
        self.tape = Tape(self.dispatch, case, delta)
        return y, last
