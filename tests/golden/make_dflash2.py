"""Make dflash2.safetensors: inputs and outputs of the published DFlash 2 drafter.

As make_dflash_v1.py, with the logits of every slot and the path that the selector
chooses greedily. The published code has the codebooks as embeddings. Checkpoints have
them as plain parameters, and so do these arrays.

    python -m tests.golden.make_dflash2
"""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map

from tests.golden.inputs import ROUNDS, draw_round
from tests.golden.make_dflash_v1 import (
    SHAPE,
    Target,
    make_temporal_cache,
    named_weights,
)

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
        for name, array in named_weights(draft, target, case).items():
            arrays[name.replace("codebook.weight", "codebook")] = array
        cache = make_temporal_cache(draft)
        for i, rows in enumerate(ROUNDS):
            features, anchor, block = draw_round(rows)
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
