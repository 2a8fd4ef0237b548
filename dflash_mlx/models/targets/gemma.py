"""Gemma: the embedding is scaled by the square root of its width."""

from __future__ import annotations

import mlx.core as mx

from .base import Target


class Gemma(Target):
    """Gemma, Gemma 2 and 4, and what is built like them."""

    def embed(self, ids: mx.array) -> mx.array:
        """Token ids [..., n] to scaled rows of the embedding [..., n, H]."""
        return super().embed(ids) * self.hidden_size**0.5


class Gemma3(Target):
    """Gemma 3, which rounds the scale to bfloat16 first, as it was trained."""

    def embed(self, ids: mx.array) -> mx.array:
        """Token ids [..., n] to scaled rows of the embedding [..., n, H]."""
        rows = super().embed(ids)
        scale = mx.array(self.hidden_size**0.5, mx.bfloat16)
        return rows * scale.astype(rows.dtype)
