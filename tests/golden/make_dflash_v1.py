"""Make dflash_v1.safetensors: inputs and outputs of the published DFlash drafter.

Runs four rounds of each of CASES with random float32 weights, and writes the weights,
inputs and logits. Tests compare with them, without the package.

Needs the package `dflash` 0.1.0 (pip install --no-deps dflash==0.1.0) beside mlx and
mlx-lm. Its loop masks sliding layers by the index of a key, which is correct only for
keys in temporal order, but mlx-lm's RotatingKVCache returns them in ring order after a
round of one row. Here the caches always append in temporal order, as in training.

    python -m tests.golden.make_dflash_v1
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import RotatingKVCache

from tests.golden.inputs import MASK, ROUNDS, SIZES, TAPS, YARN, draw_round

SHAPE = SIZES | {
    "rope_theta": 10000.0,
    "target_layer_ids": TAPS,
    "mask_token_id": MASK,
}
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


class Target(nn.Module):
    """The embedding and head of a target, which the drafter uses."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(SHAPE["vocab_size"], SHAPE["hidden_size"])
        self.lm_head = nn.Linear(SHAPE["hidden_size"], SHAPE["vocab_size"], bias=False)


def named_weights(draft: nn.Module, target: Target, case: str) -> dict[str, mx.array]:
    """The arrays of a case that do not depend on the round."""
    arrays = {
        f"{case}.embed": target.embed_tokens.weight,
        f"{case}.head": target.lm_head.weight,
    }
    for name, array in tree_flatten(draft.parameters()):
        if name.split(".")[0] not in ("embed_tokens", "lm_head"):
            arrays[f"{case}.weights.{name}"] = array
    return arrays


def make_temporal_cache(draft: nn.Module) -> list:
    """The drafter's caches, changed to append in temporal order."""
    cache = draft.make_cache()
    for entry in cache:
        if isinstance(entry, RotatingKVCache):
            entry.update_and_fetch = entry._update_concat
    return cache


def main():
    # Imported here, since tests use this module without the package.
    from dflash.model_mlx import DFlashConfig, DFlashDraftModel

    arrays = {}
    mx.random.seed(0)
    for case, changes in CASES.items():
        target, draft = Target(), DFlashDraftModel(DFlashConfig(**SHAPE | changes))
        draft.bind(target)
        arrays |= named_weights(draft, target, case)
        cache = make_temporal_cache(draft)
        for i, rows in enumerate(ROUNDS):
            features, anchor, block = draw_round(rows)
            logits = draft(block, features, cache, logits_start=1)
            arrays[f"{case}.{i}.features"] = features
            arrays[f"{case}.{i}.anchor"] = anchor
            arrays[f"{case}.{i}.logits"] = logits
            mx.eval(logits, [c.state for c in cache])
    mx.save_safetensors(str(Path(__file__).with_name("dflash_v1.safetensors")), arrays)


if __name__ == "__main__":
    main()
