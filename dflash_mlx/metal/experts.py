"""mlx-lm's experts, run on few rows at a time so that rows do not depend on a block.

Owns the classes that replace mlx-lm's in exact mode. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from .kernel import MAX_ROWS

# mlx-lm sorts rows by expert from this number of choices on.
SORT_THRESHOLD = 64


class PiecewiseSwitchGLU(SwitchGLU):
    """SwitchGLU on few rows at a time."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [..., L, K], indices [..., L, k] to [..., L, k, K]."""
        return run_in_pieces(super().__call__, x, indices)


class PiecewiseSwitchMLP(SwitchMLP):
    """SwitchMLP on few rows at a time."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """x [..., L, K], indices [..., L, k] to [..., L, k, K]."""
        return run_in_pieces(super().__call__, x, indices)


def run_in_pieces(
    run: Callable[[mx.array, mx.array], mx.array], x: mx.array, indices: mx.array
) -> mx.array:
    """Run mlx-lm's experts on rows [1, L, K] of a block without sorting the rows.

    Where mlx-lm sorts rows, MLX multiplies by matrix kernels, which add up a row in
    another order than the kernels for single rows.
    """
    rows, most = x.shape[-2], max(1, (SORT_THRESHOLD - 1) // indices.shape[-1])
    if x.size > rows * x.shape[-1] or not most < rows <= MAX_ROWS:
        return run(x, indices)
    pieces = [slice(i, i + most) for i in range(0, rows, most)]
    return mx.concatenate(
        [run(x[..., piece, :], indices[..., piece, :]) for piece in pieces], axis=-3
    )


PIECEWISE_CLASSES = {SwitchGLU: PiecewiseSwitchGLU, SwitchMLP: PiecewiseSwitchMLP}
