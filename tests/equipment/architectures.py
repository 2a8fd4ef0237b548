"""A tiny random model of every architecture in the installed mlx-lm.

Owns the list of architectures and their construction. The values of their configuration
are in common_config.py and special_configs.py.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models

from tests.equipment.common_config import COMMON, VOCAB
from tests.equipment.random_weights import randomize_weights
from tests.equipment.special_configs import SPECIAL

# Architectures that repeat one token with the usual spread of weights.
SPREAD = {
    "phi3small": {"spread": 8.0},
    "gemma2": {"embedding": 0.05},
    "gemma3n": {"embedding": 0.005},
    "gemma4": {"embedding": 0.02},
    "gemma4_text": {"embedding": 0.02},
}

# Architecture that wraps a text model -> the architecture of that text model.
WRAPPED = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4_text",
    "kimi_k25": "deepseek_v3",
    "kimi_k3": "kimi_k3",
    "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2",
    "llama4": "llama4",
    "minimax_m3_vl": "minimax_m3_vl",
    "mistral3": "ministral3",
    "muse_spark": "muse_spark",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}


def names() -> list[str]:
    """Every module of mlx_lm.models; some are helpers without a model."""
    return [module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)]


def config_of(name: str) -> dict[str, Any]:
    """A tiny config.json of an architecture, as mlx-lm reads it."""
    inner = WRAPPED.get(name, name)
    config = COMMON | SPECIAL.get(inner, {}) | {"model_type": inner}
    if name in WRAPPED:
        return {"model_type": name, "text_config": config, "vocab_size": VOCAB}
    return config


def build(name: str, dtype: str = "float32", seed: int = 0) -> nn.Module | None:
    """A random model of an architecture; None for a module without a model.

    Args:
        name: A module of mlx_lm.models.
        dtype: As in `randomize_weights`.
        seed: Seed of the weights.
    """
    module = import_module(f"mlx_lm.models.{name}")
    if "ModelArgs" not in vars(module) or "Model" not in vars(module):
        return None
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config_of(name)))
    return randomize_weights(model, dtype, **SPREAD.get(name, {}))
