"""The state of a gated delta rule after some rows, from what a block's pass noted.

Knows mlx-lm's `gated_delta_update`, which Gated DeltaNet and KDA layers of every family
call with rows first, and nothing of the layers around it. The state is computed by
that same function, so its bits are those of mlx-lm.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.gated_delta import gated_delta_ops, gated_delta_update

from ...rebind import rebind


def state_after(keep: int, args: tuple, kwargs: dict[str, Any]) -> mx.array:
    """The state [1, Hv, Dv, Dk] behind the first `keep` rows of a call.

    Args:
        keep: Rows.
        args: q, k, v, a, b with rows [1, n, ...], then what comes after them.
        kwargs: The call's.
    """
    rows, rest = args[:5], args[5:]
    return _update(*(array[:, :keep] for array in rows), *rest, **kwargs)[1]


def _ops(q, k, v, g, beta, state, mask=None):
    """mlx-lm's loop over rows, off Metal, as one operation of MLX: the same bits where
    all types agree."""
    if mask is None and len({x.dtype for x in (q, k, v, g, beta)}) == 1:
        return mx.fast.gated_delta_update(q, k, v, g, beta, state)
    return gated_delta_ops(q, k, v, g, beta, state, mask)


_update = rebind(gated_delta_update, gated_delta_ops=_ops)
