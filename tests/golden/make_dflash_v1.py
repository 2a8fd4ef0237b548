"""Make dflash_v1.safetensors: what the published DFlash drafter computes.

Needs the package `dflash` 0.1.0 (pip install --no-deps dflash==0.1.0) beside mlx and
mlx-lm. Random float32 weights, four rounds with its caches carried over, in each of
CASES; weights, inputs and logits are all kept, so the test needs neither the package
nor the same random numbers.

The published loop masks sliding layers by index, which is right for keys in temporal
order only; after a round of one row mlx-lm's RotatingKVCache gives them in ring order.
Here its caches always append in temporal order, which is what the drafter was trained
with.

    python -m tests.golden.make_dflash_v1
"""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import RotatingKVCache

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 50,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "block_size": 6,
    "target_layer_ids": (1, 3, 5),
    "num_target_layers": 8,
    "mask_token_id": 49,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
MIXED = ("sliding_attention", "full_attention")
WINDOW = {"layer_types": MIXED, "sliding_window": 12}
CASES = {
    "plain": {},
    "yarn": {"rope_scaling": YARN},
    "sliding": WINDOW,
    "sliding, symmetric": WINDOW | {"is_causal": False},
    "causal": {"is_causal": True},
    "scaled": {
        "input_embedding_scale": 2.0,
        "output_multiplier": 0.5,
        "final_logit_softcapping": 3.0,
    },
}
ROUNDS = (40, 3, 1, 6)  # committed rows before each block


class Target(nn.Module):
    """As much of a target as the drafter borrows."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(SHAPE["vocab_size"], SHAPE["hidden_size"])
        self.lm_head = nn.Linear(SHAPE["hidden_size"], SHAPE["vocab_size"], bias=False)


def main():
    # Here, since the test reads the constants above without the package.
    from dflash.model_mlx import DFlashConfig, DFlashDraftModel

    arrays = {}
    mx.random.seed(0)
    for case, changes in CASES.items():
        target, draft = Target(), DFlashDraftModel(DFlashConfig(**SHAPE | changes))
        draft.bind(target)
        own = {"embed_tokens", "lm_head"}
        for name, array in tree_flatten(draft.parameters()):
            if name.split(".")[0] not in own:
                arrays[f"{case}.weights.{name}"] = array
        arrays[f"{case}.embed"] = target.embed_tokens.weight
        arrays[f"{case}.head"] = target.lm_head.weight
        cache = draft.make_cache()
        for entry in cache:
            if isinstance(entry, RotatingKVCache):
                entry.update_and_fetch = entry._update_concat
        for i, rows in enumerate(ROUNDS):
            features = mx.random.normal((1, rows, 3 * SHAPE["hidden_size"]))
            anchor = mx.random.randint(0, 48, (1,))
            masks = mx.full((5,), SHAPE["mask_token_id"], dtype=anchor.dtype)
            block = mx.concatenate([anchor, masks])[None]
            logits = draft(block, features, cache, logits_start=1)
            arrays[f"{case}.{i}.features"] = features
            arrays[f"{case}.{i}.anchor"] = anchor
            arrays[f"{case}.{i}.logits"] = logits
            mx.eval(logits, [c.state for c in cache])
    mx.save_safetensors(str(Path(__file__).with_name("dflash_v1.safetensors")), arrays)


if __name__ == "__main__":
    main()
