"""Sizes and random inputs that the scripts for golden arrays share."""

from __future__ import annotations

import mlx.core as mx

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 50,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "block_size": 6,
    "num_target_layers": 8,
}
MASK = 49
TAPS = (1, 3, 5)
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
ROUNDS = (40, 3, 1, 6)  # newly committed rows before each block


def draw_round(rows: int) -> tuple[mx.array, mx.array, mx.array]:
    """Features [1, rows, 96] of committed rows, an anchor [1], and its block [1, 6]."""
    features = mx.random.normal((1, rows, len(TAPS) * SIZES["hidden_size"]))
    anchor = mx.random.randint(0, 48, (1,))
    masks = mx.full((SIZES["block_size"] - 1,), MASK, dtype=anchor.dtype)
    return features, anchor, mx.concatenate([anchor, masks])[None]
