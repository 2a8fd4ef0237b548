"""Random tiny models and drafters, and mlx-lm's output to compare with."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step

from dflash_mlx.models.drafters.base import Request
from dflash_mlx.models.drafters.config import DFlashConfig
from dflash_mlx.models.drafters.dflash import DFlash
from tests.equipment.random_weights import randomize_weights
from tests.equipment.scripted import Script

__all__ = ["Script", "randomize_weights"]

VOCAB = 97
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
FAMILIES = {
    "qwen3": SHAPE,
    "llama": SHAPE,
    "qwen3_moe": SHAPE
    | {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
}
DTYPES = ("float32", "bfloat16", "4bit")


def make_model(family: str, dtype: str = "float32", seed: int = 0) -> nn.Module:
    """Make a random model of a family whose greedy text varies."""
    mx.random.seed(seed)
    module = import_module(f"mlx_lm.models.{family}")
    args = module.ModelArgs.from_dict({"model_type": family} | FAMILIES[family])
    return randomize_weights(module.Model(args), dtype)


def make_drafter(block_size: int = 8, dtype: str = "float32", **changes) -> DFlash:
    """Make a random DFlash drafter for the tiny targets.

    Args:
        block_size: Rows of a block.
        dtype: As in randomize_weights.
        changes: Other fields of the config, and `window`.
    """
    mx.random.seed(99)
    fields = {
        "hidden_size": SHAPE["hidden_size"],
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "block_size": block_size,
        "mask_token_id": VOCAB - 1,
        "target_layer_ids": (0, 2),
        "num_target_layers": SHAPE["num_hidden_layers"],
        "rope_theta": 10000.0,
    }
    window = changes.pop("window", None)
    return randomize_weights(DFlash(DFlashConfig(**fields | changes), window), dtype)


def reference(model, prompt, tokens, **options) -> list[int]:
    """mlx-lm's tokens for a prompt."""
    steps = generate_step(mx.array(prompt), model, max_tokens=tokens, **options)
    return [token for token, _ in steps]


def run(pair, prompt, tokens, **options) -> list[int]:
    """Our tokens for a prompt."""
    from dflash_mlx import decode

    rounds = decode(pair, prompt, max_tokens=tokens, **options)
    return [token for round in rounds for token in round.tokens]


def greedy(logits, slots, ids=None) -> mx.array:
    """Choose the best id of each slot, of all ids or of the candidates."""
    best = mx.argmax(logits, axis=-1)
    if ids is None:
        return best
    return mx.take_along_axis(ids, best[..., None], axis=-1)[..., 0]


def forward_block(drafter: DFlash, anchor, cache, width: int) -> mx.array:
    """Hidden states [1, B, H] of one text's block."""
    [block] = drafter.forward_texts([Request(anchor, cache, width, greedy)])
    return block


def write(folder: Path, config: dict, weights: dict | None = None) -> Path:
    """Write a checkpoint's folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def some_prompt(length: int, seed: int = 5) -> list[int]:
    """Random token ids without the mask token."""
    return mx.random.randint(0, VOCAB - 1, (length,), key=mx.random.key(seed)).tolist()


def golden_weights(arrays: dict[str, mx.array], case: str) -> dict[str, mx.array]:
    """The drafter's weights of a case, from the arrays that a golden script saved."""
    prefix = f"{case}.weights."
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
