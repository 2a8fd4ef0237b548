"""The state of a gated delta rule after the first rows of a block.

Knows mlx-lm's `gated_delta_update`, which the Gated DeltaNet and KDA layers of every
family call with rows first. The same function computes the state here, so the bits
equal mlx-lm's. Does not know the layers around it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.gated_delta import gated_delta_ops, gated_delta_update

from ...rebind import rebind


def state_after(keep: int, args: tuple, kwargs: dict[str, Any]) -> mx.array:
    """The state [1, Hv, Dv, Dk] after the first `keep` rows of a recorded call.

    Args:
        keep: The number of rows.
        args: q, k, v, a, b with rows [1, n, ...], then the other arguments.
        kwargs: The keyword arguments.
    """
    rows, rest = args[:5], args[5:]
    return _update(*(array[:, :keep] for array in rows), *rest, **kwargs)[1]


def _ops(q, k, v, g, beta, state, mask=None):
    """mlx-lm's loop over rows (without Metal) as one operation of MLX. The bits are the
    same where all dtypes are equal."""
    if mask is None and len({x.dtype for x in (q, k, v, g, beta)}) == 1:
        return mx.fast.gated_delta_update(q, k, v, g, beta, state)
    return gated_delta_ops(q, k, v, g, beta, state, mask)


_update = rebind(gated_delta_update, gated_delta_ops=_ops)
