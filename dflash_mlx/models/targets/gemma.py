"""Gemma: the embedding is scaled by the square root of its width."""

from __future__ import annotations

import mlx.core as mx

from .base import Target


class Gemma(Target):
    """Gemma, Gemma 2 and Gemma 4."""

    def embed(self, ids: mx.array) -> mx.array:
        """Scaled embeddings [..., n, H] of token ids [..., n]."""
        return super().embed(ids) * self.hidden_size**0.5


class Gemma3(Target):
    """Gemma 3, which rounds the scale to bfloat16, as in its training."""

    def embed(self, ids: mx.array) -> mx.array:
        """Scaled embeddings [..., n, H] of token ids [..., n]."""
        rows = super().embed(ids)
        scale = mx.array(self.hidden_size**0.5, mx.bfloat16)
        return rows * scale.astype(rows.dtype)
