"""Attention of many blocks over a context that they share, for training.

Each row attends to the context and to its own block as two parts, under one softmax. No
array joins the context with the blocks, and no row is compared with another block. Does
not know projections, positions or anchors.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Sight:
    """What the rows of M blocks of each of N sequences see.

    Args:
        context: [N, M, B, S], True where a row sees a row of the context; [N, M, 1, S]
            if all rows of a block see the same.
        causal: A row sees no later row of its block.
    """

    context: mx.array
    causal: bool


def attend(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    context: tuple[mx.array, mx.array],
    sight: Sight,
    scale: float,
    sinks: mx.array | None = None,
) -> mx.array:
    """Attend to the context and to the rows' own block.

    Args:
        queries: [N * M, heads, B, head_dim].
        keys, values: [N * M, kv_heads, B, head_dim] of the blocks.
        context: Keys and values [N, kv_heads, S, head_dim].
        sight: What the rows see. Every row sees itself.
        scale: Factor of the scores.
        sinks: [heads] scores of a key without a value, or None.

    Returns:
        [N * M, heads, B, head_dim].
    """
    (n, heads, s, size), (blocks, _, rows, _) = context[0].shape, queries.shape
    m, group = blocks // n, queries.shape[1] // heads

    def by_head(a):
        """[N * M, any * kv_heads, B, d] -> [N, kv_heads, M, any * B, d]."""
        return a.reshape(n, m, heads, -1, size).transpose(0, 2, 1, 3, 4)

    # Scores are [N, kv_heads, M, group, B, keys].
    split = n, heads, m, group, rows, -1
    queries = by_head(queries * scale)
    flat = queries.reshape(n, heads, -1, size)
    far = (flat @ context[0].swapaxes(-1, -2)).reshape(split)
    far = mx.where(sight.context[:, None, :, None], far, -mx.inf)
    near = (queries @ by_head(keys).swapaxes(-1, -2)).reshape(split)
    if sight.causal:
        near = mx.where(mx.tri(rows, dtype=mx.bool_), near, -mx.inf)
    most = mx.maximum(far.max(-1, keepdims=True), near.max(-1, keepdims=True))
    if sinks is not None:
        sinks = sinks.reshape(1, heads, 1, group, 1, 1)
        most = mx.maximum(most, sinks)
    most = mx.stop_gradient(most)
    far, near = mx.exp(far - most), mx.exp(near - most)
    total = far.sum(-1, keepdims=True) + near.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + mx.exp(sinks - most)
    out = (far.reshape(n, heads, -1, s) @ context[1]).reshape(split)
    out = out + (near.reshape(n, heads, m, -1, rows) @ by_head(values)).reshape(split)
    out = (out / total).transpose(0, 2, 1, 3, 4, 5)
    return out.reshape(blocks, heads * group, rows, size)
