"""Make laguna.safetensors: inputs and outputs of the published Laguna drafter.

As make_dflash_v1.py, with the logits of every masked slot. mlx-vlm computes the window
from indices, the same for every row of a block, so the window here is wider than the
text and has no effect.

mlx-vlm passes the context rows to a layer's attention unchanged. SGLang's
DFlashLagunaForCausalLM, which serves these checkpoints, applies the layer's input norm
first (`prepare_context_hidden_for_kv`), and so does this script.

Needs the package `mlx-vlm` 0.7.10 beside mlx and mlx-lm.

    python -m tests.golden.make_laguna
"""

from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from tests.golden.inputs import ROUNDS, draw_round

CONFIG = {
    "architectures": ["LagunaDFlashModel"],
    "model_type": "laguna",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 50,
    "draft_vocab_size": 50,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "layer_types": ["sliding_attention"] * 3,
    "sliding_window": 128,
    "gating": "per-head",
    "eagle_aux_hidden_state_layer_ids": [2, 4, 6],
    "dflash_config": {
        "block_size": 6,
        "mask_token_id": 49,
        "target_layer_ids": [1, 3, 5],
        "num_target_layers": 8,
        "causal": True,
    },
}


def layer_by_layer(draft, block, features, cache):
    """Logits of a block, with the input norm of each layer applied to the context."""
    h = draft._embed_input_tokens(block)
    context = draft._combine_hidden(features)
    for layer, entry in zip(draft.layers, cache, strict=True):
        norm = layer.input_layernorm
        h = h + layer.self_attn(norm(h), norm(context), draft.rope, entry)
        h = h + layer.mlp(layer.post_attention_layernorm(h))
    return draft._logits(draft.norm(h))


def main():
    from mlx_vlm.speculative.drafters.laguna_dflash import (
        LagunaDFlashDraftModel,
        ModelConfig,
    )

    mx.random.seed(0)
    draft = LagunaDFlashDraftModel(ModelConfig.from_dict(CONFIG))
    draft.update(
        tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape), draft.parameters())
    )
    arrays = {f"weights.{name}": a for name, a in tree_flatten(draft.parameters())}
    embed, head = mx.random.normal((50, 32)), mx.random.normal((50, 32))
    arrays |= {"embed": embed, "head": head}
    draft.embed_tokens = lambda ids: embed[ids]
    draft.lm_head = lambda h: h @ head.T
    cache = draft.make_cache()
    for i, rows in enumerate(ROUNDS):
        features, anchor, block = draw_round(rows)
        logits = layer_by_layer(draft, block, features, cache)[:, 1:]
        arrays |= {
            f"{i}.features": features,
            f"{i}.anchor": anchor,
            f"{i}.logits": logits,
        }
        mx.eval(logits, [entry.state for entry in cache])
    mx.save_safetensors(str(Path(__file__).with_name("laguna.safetensors")), arrays)


if __name__ == "__main__":
    main()
