"""Make dspark.safetensors: what a published DSpark drafter computes.

Needs the packages `mlx-dspark` 0.20.3 and `mlx-vlm` 0.7.10 beside mlx and mlx-lm. As
make_dflash_v1.py: random float32 weights, four rounds with carried contexts, logits of
every slot, and the path that the vanilla Markov head walks greedily. mlx-dspark has no
gated or rnn head; those are tested against their formulas.

    python tests/golden/make_dspark.py
"""

import json
import tempfile
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

ROUNDS = (40, 3, 1, 6)
SHAPE = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "vocab_size": 50,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "block_size": 6,
    "num_target_layers": 8,
    "markov_rank": 12,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}
PLACES = {"mask_token_id": 49, "target_layer_ids": [1, 3, 5]}
PLAIN = {"rope_theta": 10000.0, "rope_type": "default"}
YARN = {
    "rope_theta": 10000.0,
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    # All fields at the root, own tables; the copied fields describe the target.
    "DeepSpec": SHAPE
    | PLACES
    | {
        "architectures": ["Qwen3DSparkModel"],
        "rope_parameters": PLAIN | {"partial_rotary_factor": 0.25},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "SpecForge": SHAPE
    | {
        "architectures": ["DSparkDraftModel"],
        "rope_parameters": YARN,
        "dflash_config": PLACES | {"projector_type": "dspark"},
    },
    "LiquidAI": SHAPE
    | {
        "architectures": ["Lfm2DSparkDraftModel"],
        "rope_parameters": PLAIN,
        "rope_is_neox_style": False,
        "dflash_config": PLACES,
    },
}
OWN = ("embed_tokens.weight", "lm_head.weight")


def main():
    from mlx_dspark.config import DSparkConfig
    from mlx_dspark.model import DSparkDrafter

    arrays = {}
    mx.random.seed(0)
    for case, config in CASES.items():
        file = Path(tempfile.mkdtemp()) / "config.json"
        file.write_text(json.dumps(config))
        read = DSparkConfig.from_json(file)
        read.has_own_embed = read.has_own_lm_head = case == "DeepSpec"
        draft = DSparkDrafter(read)
        draft.update(
            tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape), draft.parameters())
        )
        embed, head = mx.random.normal((50, 32)), mx.random.normal((50, 32))
        if case == "DeepSpec":
            draft.embed_tokens.weight, draft.lm_head.weight = embed, head
        else:
            draft.bind_embed(lambda ids, embed=embed: embed[ids])
            draft.bind_lm_head(lambda h, head=head: h @ head.T)
        for name, array in tree_flatten(draft.parameters()):
            arrays[f"{case}.weights.{name}"] = array
        arrays[f"{case}.embed"], arrays[f"{case}.head"] = embed, head
        caches, at = draft.make_ctx_cache(), 0
        for i, rows in enumerate(ROUNDS):
            features = mx.random.normal((1, rows, 96))
            draft.update_context(features, at, caches)
            at += rows
            anchor = mx.random.randint(0, 48, (1,))
            block = mx.concatenate([anchor, mx.full((5,), 49, dtype=anchor.dtype)])
            hidden = draft.backbone(draft.embed(block[None]), at, caches)
            logits = draft.compute_logits(draft.head_slice(hidden, 6))
            path = draft.sample_block(logits[0], anchor.item())
            before = mx.concatenate([anchor, path[:-1]])[None]
            trust = mx.sigmoid(draft.confidence_logits(hidden, before))
            arrays[f"{case}.{i}.features"] = features
            arrays[f"{case}.{i}.anchor"] = anchor
            arrays[f"{case}.{i}.logits"] = logits
            arrays[f"{case}.{i}.path"] = path[None]
            arrays[f"{case}.{i}.confidence"] = trust.reshape(1, 6)
            mx.eval(logits, path, trust)
    mx.save_safetensors(str(Path(__file__).with_name("dspark.safetensors")), arrays)


if __name__ == "__main__":
    main()
