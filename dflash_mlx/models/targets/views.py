"""Copies of a stock model that share its weights and call our functions on the way.

Owns the search for a model's embedding, layers and head, and the copies in which calls
of some modules go through a function of ours. The model itself never changes, and the
installed mlx-lm's code does the computing. Does not know what is recorded.
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

# Takes the place of a module's call: gets the stock call and its arguments.
Wrapper = Callable[..., Any]


@dataclass(frozen=True)
class ModelParts:
    """Where a model keeps its parts.

    Args:
        path: Attributes from the model down to the module that owns the layers.
        layers: The attribute of that module that lists the layers.
        embedding: The token embedding.
        head: The linear layer that computes logits; None if the embedding does.
    """

    path: tuple[str, ...]
    layers: str
    embedding: nn.Module
    head: nn.Module | None

    @classmethod
    def of(cls, model: nn.Module) -> ModelParts:
        """Find the parts of a model.

        Raises:
            UnsupportedError: The model's layout is unknown.
        """
        path, layers = _find_layers(model)
        owners = _modules_along(model, path)
        embeddings = [
            owner[name]
            for owner in reversed(owners)
            for name in EMBEDDINGS
            if name in owner and isinstance(owner[name], EMBEDDING_KINDS)
        ]
        if not embeddings:
            raise _unsupported(model, "keeps its embedding in an unknown place")
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
        return _modules_along(model, self.path)[-1][self.layers]

    def with_layers(self, model: nn.Module, layers: list[nn.Module]) -> nn.Module:
        """A copy of `model` with other layers."""
        owners = [copy.copy(owner) for owner in _modules_along(model, self.path)]
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


def with_call(module: nn.Module, wrapper: Wrapper) -> nn.Module:
    """A copy of `module`, sharing its weights, whose calls go through `wrapper`."""
    stock = type(module)

    class Wrapped(stock):
        # Every model passes other arguments, so all of them are passed on.
        def __call__(self, *args, **kwargs):
            return wrapper(partial(stock.__call__, self), *args, **kwargs)

    copied = copy.copy(module)
    copied.__class__ = Wrapped
    return copied


def with_function(module: nn.Module, name: str, function: Callable) -> nn.Module:
    """A copy of `module` whose methods call `function` under a global name of their
    file. Returns the module itself if no method uses the name."""
    kind = rebind_class(type(module), **{name: function})
    if kind is None:
        return module
    copied = copy.copy(module)
    copied.__class__ = kind
    return copied


def with_children(module: nn.Module, change: Callable) -> nn.Module:
    """A copy of `module` with `change` applied to its children, in lists too."""
    copied = copy.copy(module)
    for name, child in module.children().items():
        copied[name] = _map_modules(child, change)
    return copied


def _map_modules(child, change):
    if isinstance(child, nn.Module):
        return change(child)
    if isinstance(child, list | tuple):
        return type(child)(_map_modules(item, change) for item in child)
    if isinstance(child, dict):
        return {name: _map_modules(item, change) for name, item in child.items()}
    return child


def _find_layers(model):
    """The path and the name of the list of the model's decoder layers."""
    wanted = list(model.layers)
    found = [((), model)]
    for path, module in found:
        for name, child in module.children().items():
            if isinstance(child, list) and child and child[0] is wanted[0]:
                if len(child) != len(wanted):
                    raise _unsupported(
                        model, "does not keep all of its layers in one list"
                    )
                return path, name
            if isinstance(child, nn.Module):
                found.append(((*path, name), child))
    raise _unsupported(model, "keeps its layers in an unknown place")


def _modules_along(model, path):
    """The model and every module on the path."""
    owners = [model]
    for name in path:
        owners.append(owners[-1][name])
    return owners


def _unsupported(model, why):
    return UnsupportedError(f"{type(model).__module__} {why}.", "Run it with --plain.")
