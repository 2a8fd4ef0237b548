"""A stock mlx-lm model as a verifier: logits and tapped features from one pass.

Owns the way features are taken. Knows nothing of drafters, samplers or the loop,
and changes nothing in the model: features come from a view of it, a shallow copy
that shares every weight and whose tapped layers note their output as it passes.
So the arithmetic is mlx-lm's own, in whatever version is installed.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from ...errors import UnsupportedError


class Target:
    """The target contract over a model laid out as mlx-lm lays out most of them.

    `model.model` holds `embed_tokens` and `layers`; the head is `model.lm_head` or
    the transposed embedding. A family that differs gets a subclass in its own file
    and a line in `targets.FAMILIES`.

    Args:
        model: The loaded mlx-lm model.
        config: Its config.json, as far as known.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any] | None = None):
        self.model = model
        self.config = config or {}
        self._views: dict[tuple[int, ...], tuple[nn.Module, dict]] = {}
        text = self.config.get("text_config") or self.config
        self.context = text.get("max_position_embeddings")
        self.head_dim = text.get("head_dim")
        if self.head_dim is None and text.get("num_attention_heads"):
            self.head_dim = text.get("hidden_size", 0) // text["num_attention_heads"]

    @cached_property
    def layout(self) -> tuple[int, nn.Module]:
        """Number of layers, and the embedding; plain decoding needs neither.

        Raises:
            UnsupportedError: The model keeps them in a place that is not known here.
        """
        try:
            body = self.body(self.model)
            return len(body.layers), body.embed_tokens
        except AttributeError as error:
            raise UnsupportedError(
                f"A model of {type(self.model).__module__} keeps its layers in a place "
                f"that is not known here ({error}).",
                "Run it with --plain.",
            ) from None

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.layout[0]

    @property
    def embed_tokens(self) -> nn.Module:
        """The embedding module."""
        return self.layout[1]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return embedding_shape(self.embed_tokens)[0]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return embedding_shape(self.embed_tokens)[1]

    @staticmethod
    def body(model: nn.Module) -> nn.Module:
        """The module that owns `embed_tokens` and `layers`."""
        return model.model

    @staticmethod
    def with_body(model: nn.Module, body: nn.Module) -> nn.Module:
        """A shallow copy of `model` around another body."""
        view = copy.copy(model)
        view.model = body
        return view

    def embed(self, ids: mx.array) -> mx.array:
        """Token ids [..., n] to rows of the embedding [..., n, H]."""
        return self.embed_tokens(ids)

    def head(self, h: mx.array) -> mx.array:
        """Normed hidden states [..., H] to logits [..., V]."""
        if "lm_head" in self.model:
            return self.model.lm_head(h)
        return self.embed_tokens.as_linear(h)

    def make_cache(self) -> list[Any]:
        """A fresh cache, one entry a layer, as mlx-lm makes it."""
        return make_prompt_cache(self.model)

    def forward(
        self, tokens: mx.array, cache: list[Any], taps: tuple[int, ...] = ()
    ) -> tuple[mx.array, mx.array]:
        """Run the model on new tokens behind what the cache holds.

        Args:
            tokens: [1, n] token ids.
            cache: From `make_cache`; n rows longer afterwards.
            taps: 0-based layers whose output is wanted, in this order.

        Returns:
            Logits [1, n, V], and features [1, n, len(taps) * H]: the residual
            stream after each tapped layer. Both lazy: what nobody reads is not
            computed.
        """
        if not taps:
            return self.model(tokens, cache=cache), mx.zeros((1, tokens.shape[1], 0))
        view, seen = self._view(taps)
        logits = view(tokens, cache=cache)
        features = mx.concatenate([seen[tap] for tap in taps], axis=-1)
        seen.clear()
        return logits, features

    def _view(self, taps):
        if taps not in self._views:
            seen: dict[int, mx.array] = {}
            body = copy.copy(self.body(self.model))
            body.layers = [
                noting(layer, i, seen) if i in taps else layer
                for i, layer in enumerate(body.layers)
            ]
            self._views[taps] = self.with_body(self.model, body), seen
        return self._views[taps]


def noting(layer: nn.Module, index: int, seen: dict[int, mx.array]) -> nn.Module:
    """A copy of `layer`, sharing its weights, that stores its output in `seen`."""
    stock = type(layer)

    class Noting(stock):
        # Layers take what their model passes; only the output matters here.
        def __call__(self, *args, **kwargs):
            out = super().__call__(*args, **kwargs)
            seen[index] = out
            return out

    twin = copy.copy(layer)
    twin.__class__ = Noting
    return twin


def embedding_shape(embedding: nn.Module) -> tuple[int, int]:
    """(vocabulary, width) of a plain or quantized embedding."""
    if isinstance(embedding, nn.QuantizedEmbedding):
        return embedding.num_embeddings, embedding.dims
    return embedding.weight.shape
