"""Make dflash2.safetensors: what the published DFlash 2 drafter computes.

As make_dflash_v1.py, with the logits of every slot and the path that the selector
walks greedily. The published code keeps the codebooks as embeddings; checkpoints hold
them as bare parameters, and so do these arrays.

    python -m tests.golden.make_dflash2
"""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import RotatingKVCache

from tests.golden.make_dflash_v1 import ROUNDS, SHAPE, Target

EXTRAS = {
    "conv_kernel_size": 2,
    "conv_group_size": 8,
    "selector_rank": 12,
    "selector_top_k": 6,
    "is_causal": False,
}
WINDOW = {"layer_types": ("sliding_attention",) * 2, "sliding_window": 12}
CASES = {"full": {}, "sliding": WINDOW, "three taps": {"conv_kernel_size": 3}}


def main():
    from dflash.model_mlx import DFlash2DraftModel, DFlashConfig

    arrays = {}
    mx.random.seed(0)
    for case, changes in CASES.items():
        target = Target()
        draft = DFlash2DraftModel(DFlashConfig(**SHAPE | EXTRAS | changes))
        drawn = tree_map(
            lambda a: a + 0.2 * mx.random.normal(a.shape), draft.parameters()
        )
        draft.update(drawn)
        draft.bind(target)
        own = {"embed_tokens", "lm_head"}
        for name, array in tree_flatten(draft.parameters()):
            if name.split(".")[0] not in own:
                name = name.replace("codebook.weight", "codebook")
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
            hidden = draft.hidden_states(block, features, cache, 1)
            logits = draft.compute_logits(hidden)
            path, _, _ = draft.candidate_selector.select(hidden, logits, anchor, 0)
            arrays[f"{case}.{i}.features"] = features
            arrays[f"{case}.{i}.anchor"] = anchor
            arrays[f"{case}.{i}.logits"] = logits
            arrays[f"{case}.{i}.path"] = path
            mx.eval(logits, path, [c.state for c in cache])
    mx.save_safetensors(str(Path(__file__).with_name("dflash2.safetensors")), arrays)


if __name__ == "__main__":
    main()
