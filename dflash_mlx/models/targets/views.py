"""Copies of a stock model that share its weights and note what passes.

Owns the search for the embedding, the layers and the head of a model, and the
making of copies in which some modules are watched. The model itself is never
changed, and what runs is always the installed mlx-lm's own code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.nn as nn

from ...errors import UnsupportedError
from ...rebind import rebind_class

EMBEDDINGS = (
    "embed_tokens",
    "word_embeddings",
    "wte",
    "embeddings",
    "embedding",
    "tok_embeddings",
    "token_embeddings",
    "embed_in",
)

# What a watched call does: given the stock call and its arguments, its result.
Watch = Callable[..., Any]


@dataclass(frozen=True)
class ModelParts:
    """Where a model keeps its parts.

    Args:
        path: Attributes from the model down to the module that owns the layers.
        layers: The attribute of that module that lists them.
        embedding: The embedding of tokens.
        head: The linear layer that gives logits; None where the embedding does.
    """

    path: tuple[str, ...]
    layers: str
    embedding: nn.Module
    head: nn.Module | None

    @classmethod
    def of(cls, model: nn.Module) -> ModelParts:
        """Search a model.

        Raises:
            UnsupportedError: It is laid out in a way that is not known here.
        """
        path, layers = _find_layers(model)
        owners = _along(model, path)
        embeddings = [
            owner[name]
            for owner in reversed(owners)
            for name in EMBEDDINGS
            if name in owner and isinstance(owner[name], EMBEDDING_KINDS)
        ]
        if not embeddings:
            raise _unknown(model, "its embedding")
        rows = embedding_shape(embeddings[0])[0]
        heads = [
            child
            for owner in owners
            for child in owner.children().values()
            if isinstance(child, nn.Linear | nn.QuantizedLinear)
            and child.weight.shape[0] == rows
        ]
        return cls(path, layers, embeddings[0], heads[0] if heads else None)

    def list_layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of `model`."""
        return _along(model, self.path)[-1][self.layers]

    def with_layers(self, model: nn.Module, layers: list[nn.Module]) -> nn.Module:
        """A copy of `model` around other layers."""
        owners = [copy.copy(owner) for owner in _along(model, self.path)]
        owners[-1][self.layers] = layers
        for outer, name, inner in zip(owners, self.path, owners[1:], strict=False):
            outer[name] = inner
        return owners[0]


EMBEDDING_KINDS = (nn.Embedding, nn.QuantizedEmbedding)


def embedding_shape(embedding: nn.Module) -> tuple[int, int]:
    """(vocabulary, width) of a plain or quantized embedding."""
    if isinstance(embedding, nn.QuantizedEmbedding):
        return embedding.num_embeddings, embedding.dims
    return embedding.weight.shape


def watched(module: nn.Module, watch: Watch) -> nn.Module:
    """A copy of `module`, sharing its weights, whose calls go through `watch`."""
    stock = type(module)

    class Watched(stock):
        # Modules take what their model passes; `watch` hands it on as it came.
        def __call__(self, *args, **kwargs):
            return watch(partial(stock.__call__, self), *args, **kwargs)

    twin = copy.copy(module)
    twin.__class__ = Watched
    return twin


def with_function(module: nn.Module, name: str, function: Callable) -> nn.Module:
    """A copy of `module` whose methods call `function` by a global name of its file;
    the module itself if none of them uses the name."""
    kind = rebind_class(type(module), **{name: function})
    if kind is None:
        return module
    twin = copy.copy(module)
    twin.__class__ = kind
    return twin


def with_children(module: nn.Module, change: Callable) -> nn.Module:
    """A copy of `module` with its children, in lists too, put through `change`."""
    twin = copy.copy(module)
    for name, child in module.children().items():
        twin[name] = _mapped(child, change)
    return twin


def _mapped(child, change):
    if isinstance(child, nn.Module):
        return change(child)
    if isinstance(child, list | tuple):
        return type(child)(_mapped(item, change) for item in child)
    if isinstance(child, dict):
        return {name: _mapped(item, change) for name, item in child.items()}
    return child


def _find_layers(model):
    """Path and name of the list that holds the model's decoder layers."""
    wanted = list(model.layers)
    found = [((), model)]
    for path, module in found:
        for name, child in module.children().items():
            if isinstance(child, list) and child and child[0] is wanted[0]:
                if len(child) != len(wanted):
                    raise _unknown(model, "all of its layers in one list")
                return path, name
            if isinstance(child, nn.Module):
                found.append(((*path, name), child))
    raise _unknown(model, "its layers")


def _along(model, path):
    owners = [model]
    for name in path:
        owners.append(owners[-1][name])
    return owners


def _unknown(model, what):
    return UnsupportedError(
        f"A model of {type(model).__module__} does not keep {what} where it is looked "
        "for.",
        "Run it with --plain.",
    )
