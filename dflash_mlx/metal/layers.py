"""Installs the dispatch in a loaded model's layers.

Owns the replacement of classes: a layer becomes an instance of a subclass of its own
class, in place. Names, weights and everything else are kept, and no class of MLX or
mlx-lm is changed. Does not know what a layer computes; see linear.py, attention.py,
delta_rule.py and experts.py.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.nn as nn

from ..rebind import rebind_class
from .attention import ATTENTION, attention
from .delta_rule import DeltaRule
from .dispatch import Dispatch
from .experts import PIECEWISE_CLASSES
from .linear import KERNEL_CLASSES, MATMUL, QUANTIZED

# The operations whose rows are independent of each other.
OPERATIONS = (MATMUL, QUANTIZED, ATTENTION)


def install(model: nn.Module, dispatch: Dispatch) -> None:
    """Make a model's layers use `dispatch`, in place."""
    functions = {
        "scaled_dot_product_attention": partial(attention, dispatch),
        "gated_delta_update": DeltaRule(dispatch),
    }
    classes = KERNEL_CLASSES | (PIECEWISE_CLASSES if dispatch.exact else {})
    rebound = cache(lambda kind: rebind_class(kind, **functions))
    for _, module in model.named_modules():
        kind = classes.get(type(module)) or rebound(type(module))
        if kind is not None:
            module.__class__ = kind
        if type(module) in KERNEL_CLASSES.values():
            module.dispatch = dispatch
