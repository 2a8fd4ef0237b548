"""Make dspark.safetensors: inputs and outputs of published DSpark drafters.

As make_dflash_v1.py, with the logits of every slot that predicts, and the path that the
vanilla Markov head chooses greedily. The contexts grow beyond the window where there is
one. mlx-dspark has no gated or rnn head; tests compare those with their formulas.

Needs the packages `mlx-dspark` 0.20.3 and `mlx-vlm` 0.7.10 beside mlx and mlx-lm.

    python -m tests.golden.make_dspark
"""

import json
import tempfile
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from tests.golden import inputs
from tests.golden.inputs import MASK, ROUNDS, SIZES, TAPS, draw_round

SHAPE = SIZES | {
    "model_type": "qwen3",
    "markov_rank": 12,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}
MASK_AND_TAPS = {"mask_token_id": MASK, "target_layer_ids": list(TAPS)}
PLAIN = {"rope_theta": 10000.0, "rope_type": "default"}
YARN = {"rope_theta": 10000.0} | inputs.YARN
CASES = {
    # All fields at the root, own embedding and head. Some fields are the target's.
    "DeepSpec": SHAPE
    | MASK_AND_TAPS
    | {
        "architectures": ["Qwen3DSparkModel"],
        "rope_parameters": PLAIN | {"partial_rotary_factor": 0.25},
        "layer_types": ["linear_attention", "full_attention"],
    },
    "SpecForge": SHAPE
    | {
        "architectures": ["DSparkDraftModel"],
        "rope_parameters": YARN,
        "dflash_config": MASK_AND_TAPS | {"projector_type": "dspark"},
    },
    "LiquidAI": SHAPE
    | {
        "architectures": ["Lfm2DSparkDraftModel"],
        "rope_parameters": PLAIN,
        "rope_is_neox_style": False,
        "dflash_config": MASK_AND_TAPS,
    },
    # A causal block, a window, sinks, and an anchor's slot that predicts nothing.
    "NVIDIA": SHAPE
    | MASK_AND_TAPS
    | {
        "architectures": ["Qwen3DSparkModel"],
        "rope_parameters": PLAIN,
        "dflash_query_causal": True,
        "attention_sink_bias": True,
        "sample_from_anchor": False,
        "sliding_window": 12,
        "has_embed_tokens": True,
        "has_lm_head": False,
    },
    "Gemma 4": SHAPE
    | MASK_AND_TAPS
    | {
        "architectures": ["Gemma4DSparkModel"],
        "model_type": "gemma4_text",
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {
                "rope_theta": 10000.0,
                "rope_type": "proportional",
                "partial_rotary_factor": 0.25,
            }
        },
    },
    # Gates from q_proj, a quarter of each head rotated, norms as offsets from 1.
    "Qwen3.5": SHAPE
    | MASK_AND_TAPS
    | {
        "architectures": ["Qwen35DSparkModel"],
        "model_type": "qwen3_5",
        "enable_qwen35_gated_q_proj": True,
        "rope_parameters": PLAIN | {"partial_rotary_factor": 0.25},
    },
    "Bonsai": SHAPE
    | MASK_AND_TAPS
    | {
        "architectures": ["Qwen3DSparkModel"],
        "rope_parameters": PLAIN,
        "log_snr_conditioning": True,
        "min_log_snr": -9.0,
        "max_log_snr": 9.0,
    },
    # A reduced vocabulary of 20 tokens, taps counted from the embeddings.
    "speculators": {
        "speculators_model_type": "dspark",
        "speculators_config": {
            "algorithm": "dspark",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 5}],
        },
        "transformer_layer_config": SHAPE
        | {"rope_parameters": PLAIN, "layer_types": ["full_attention"] * 2},
        "draft_vocab_size": 20,
        "block_size": 6,
        "mask_token_id": 49,
        "aux_hidden_state_layer_ids": [2, 4, 6],
        "markov_rank": 12,
    },
}
# Whether a checkpoint has an embedding and a head of its own. The default is both.
TABLES = {
    "SpecForge": (False, False),
    "LiquidAI": (False, False),
    "NVIDIA": (True, False),
}
TOKENS = [*range(3, 43, 2)]  # the reduced vocabulary


def published(case: str, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights as in the checkpoints of a case."""
    if case == "Qwen3.5":
        norms = {k: v - 1 for k, v in weights.items() if k.endswith("norm.weight")}
        return weights | norms
    if case == "speculators":
        ids = mx.array(TOKENS)
        marks = mx.zeros((50,), mx.bool_)
        marks[ids] = True
        return weights | {"d2t": ids - mx.arange(20), "t2d": marks}
    return weights


def main():
    from mlx_dspark.config import DSparkConfig
    from mlx_dspark.model import DSparkDrafter

    arrays = {}
    mx.random.seed(0)
    for case, config in CASES.items():
        file = Path(tempfile.mkdtemp()) / "config.json"
        file.write_text(json.dumps(config))
        read = DSparkConfig.from_json(file)
        read.has_own_embed, read.has_own_lm_head = TABLES.get(case, (True, True))
        draft = DSparkDrafter(read)
        draft.update(
            tree_map(lambda a: a + 0.1 * mx.random.normal(a.shape), draft.parameters())
        )
        embed = mx.random.normal((50, 32))
        head = mx.random.normal((read.out_vocab_size, 32))
        if read.has_own_embed:
            draft.embed_tokens.weight = embed
        else:
            draft.bind_embed(lambda ids, embed=embed: embed[ids])
        if read.has_own_lm_head:
            draft.lm_head.weight = head
        else:
            draft.bind_lm_head(lambda h, head=head: h @ head.T)
        weights = published(case, dict(tree_flatten(draft.parameters())))
        if "d2t" in weights:
            draft.set_draft_vocab_map(weights["d2t"])
        for name, array in weights.items():
            arrays[f"{case}.weights.{name}"] = array
        arrays[f"{case}.embed"], arrays[f"{case}.head"] = embed, head
        caches, at, start = draft.make_ctx_cache(), 0, read.logits_start
        for i, rows in enumerate(ROUNDS):
            features, anchor, block = draw_round(rows)
            draft.update_context(features, at, caches)
            at += rows
            hidden = draft.backbone(draft.embed(block), at, caches)
            hidden = draft.head_slice(hidden, 6)
            logits = draft.compute_logits(hidden)
            path = draft.sample_block(logits[0], anchor.item())
            before = mx.concatenate([anchor, path[:-1]])[None]
            confidence = mx.sigmoid(draft.confidence_logits(hidden, before))
            arrays[f"{case}.{i}.features"] = features
            arrays[f"{case}.{i}.anchor"] = anchor
            arrays[f"{case}.{i}.logits"] = logits
            arrays[f"{case}.{i}.path"] = path[None]
            arrays[f"{case}.{i}.confidence"] = confidence.reshape(1, 6 - start)
            mx.eval(logits, path, confidence)
    mx.save_safetensors(str(Path(__file__).with_name("dspark.safetensors")), arrays)


if __name__ == "__main__":
    main()
