"""Random weights that make the greedy text of a tiny model vary."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path


def randomize_weights(
    model: nn.Module, dtype: str, spread: float = 3.0, embedding: float = 3.0
) -> nn.Module:
    """Spread the weights of a new model, so that its greedy text varies.

    Args:
        model: A model as its constructor returns it; it is changed in place.
        dtype: float32 or bfloat16; 4bit (over float32) or bfloat16-4bit, which
            quantize in groups of 32 where they fit.
        spread: Factor of all matrices but the embedding. Arrays of zeros get random
            values.
        embedding: Factor of the embedding.

    Returns:
        The model.
    """

    def spread_out(path, weight):
        if not mx.issubdtype(weight.dtype, mx.floating):
            return weight
        if not weight.any():
            return 0.1 * mx.random.normal(weight.shape, weight.dtype)
        factor = embedding if "embed" in path else spread
        return weight * factor if weight.ndim > 1 else weight

    model.update(tree_map_with_path(spread_out, model.parameters()))
    precision = dtype.removesuffix("4bit").removesuffix("-") or "float32"
    model.set_dtype(getattr(mx, precision))
    if dtype.endswith("4bit"):
        nn.quantize(model, 32, 4, class_predicate=quantizable)
    model.eval()
    mx.eval(model.parameters())
    return model


def quantizable(path: str, module: nn.Module) -> bool:
    """Whether a layer can be quantized in groups of 32."""
    return "to_quantized" in dir(module) and module.weight.shape[-1] % 32 == 0
