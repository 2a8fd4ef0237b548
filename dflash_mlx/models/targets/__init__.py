"""Targets: `make_target` wraps a model in the class for its family."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn

from .base import Target
from .gemma import Gemma, Gemma3
from .refused import CompiledStep, UnequalRows

# Module in mlx_lm.models -> subclass of Target, for the families that need one.
FAMILIES: dict[str, type[Target]] = {
    "gemma": Gemma,
    "gemma2": Gemma,
    "gemma3": Gemma3,
    "gemma3_text": Gemma3,
    "gemma4": Gemma,
    "gemma4_text": Gemma,
    "kimi_k3": CompiledStep,
    "phi3small": UnequalRows,
    "plamo3": UnequalRows,
}


def make_target(model: nn.Module, config: dict[str, Any] | None = None) -> Target:
    """Wrap a loaded mlx-lm model.

    Args:
        model: The model, from mlx_lm.load or built in memory.
        config: Its config.json, if there is one.
    """
    # The name of the module, because one module serves several model types.
    family = type(model).__module__.rpartition(".")[2]
    return FAMILIES.get(family, Target)(model, config)
