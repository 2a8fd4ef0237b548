"""The published config.json of every packaging, and small checkpoints made from it."""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_mlx.models.drafters import build_drafter, read_config
from tests.equipment.tiny import VOCAB, randomize_weights, write

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIGS = {
    file.stem: json.loads(file.read_text())
    for file in sorted((GOLDEN / "configs").glob("*.json"))
}
# Whether the checkpoints have their own embedding, and their own head.
TABLES = {
    "nvidia-dspark": (True, False),
    "deepspec": (True, True),
    "deepspec-gemma4": (True, True),
    "deepspec-qwen35": (True, True),
    "speculators-dflash": (True, True),
    "speculators-dflash2": (True, True),
    "speculators-dspark": (True, True),
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 32,
    "vocab_size": VOCAB,
    "num_target_layers": 4,
    "mask_token_id": VOCAB - 1,
    "markov_rank": 12,
    "selector_rank": 8,
    "sliding_window": 13,
    "rope_theta": 10000.0,
    "target_layer_ids": [0, 2],
    "aux_hidden_state_layer_ids": [1, 3],
    "eagle_aux_hidden_state_layer_ids": [1, 3],
}
REDUCED = 40


def small(config: dict) -> dict:
    """A config with its sizes cut down, in nested dicts too."""
    found = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found[name] = small(value)
        elif name == "layer_types":
            found[name] = [value[0], value[-1]]
        elif name == "draft_vocab_size":
            found[name] = REDUCED if value == 32000 else VOCAB
        else:
            found[name] = SMALL.get(name, value) if value is not None else None
    return found


def as_published(name: str, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Our tensors under the names and in the shapes of a packaging."""
    found = dict(weights)
    if name == "deepspec-qwen35":
        found |= {k: v - 1 for k, v in weights.items() if k.endswith("norm.weight")}
    if name == "muse":
        found["encoder.fc.weight"] = found.pop("fc.weight")
        found["encoder.output_norm_enc.weight"] = found.pop("hidden_norm.weight")
    if name == "laguna":
        for i in range(2):
            at = f"layers.{i}.self_attn."
            parts = [found.pop(f"{at}{part}_proj.weight") for part in "qkv"]
            found[f"{at}qkv_proj.weight"] = mx.concatenate(parts)
    if "d2t" in found:
        ids = mx.arange(REDUCED) * 2
        marks = mx.zeros((VOCAB,), mx.bool_)
        marks[ids] = True
        found |= {"d2t": ids - mx.arange(REDUCED), "t2d": marks}
    return found


def checkpoint(folder: Path, name: str) -> Path:
    """Write a small checkpoint of a packaging, with random tensors."""
    config = small(CONFIGS[name])
    tables = TABLES.get(name, (False, False))
    names = ["confidence_head.proj.weight"]
    for table, there in zip(("embed_tokens", "lm_head"), tables, strict=True):
        names += [f"{table}.weight"] if there else []
    read = read_config(write(folder, config))
    mx.random.seed(11)
    drafter = randomize_weights(build_drafter(read.with_tensors(names)), "float32")
    weights = dict(tree_flatten(drafter.parameters()))
    for key in ("markov_head.markov_w2.weight", "layers.0.mlp_conv.base_kernel"):
        if key in weights:  # without training they change nothing
            weights[key] = mx.random.normal(weights[key].shape) * 0.3
    return write(folder, config, as_published(name, weights))
