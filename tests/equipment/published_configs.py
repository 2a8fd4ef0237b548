"""The config.json of published targets, with tiny sizes and their own field names.

The sizes are small; which fields there are, how they are nested and what is left to
mlx-lm's defaults is as in the published files. The vocabulary is that of the embedded
pair, whose tokenizer the folders get.
"""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import MODEL_REMAPPING

from dflash_mlx.hub.find import TINY_FOLDER
from tests.equipment.random_weights import randomize_weights

VOCAB = 512
SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS = [SLIDING, SLIDING, SLIDING, FULL]
DENSE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
    "torch_dtype": "bfloat16",
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
LINEAR = {
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}
QWEN35 = DENSE | LINEAR
QWEN35.pop("rope_theta")
QWEN35 |= {
    "layer_types": ["linear_attention"] * 3 + [FULL],
    "attn_output_gate": True,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [1, 1, 0],
        "rope_type": "default",
        "rope_theta": 10000000,
        "partial_rotary_factor": 0.25,
    },
}
GEMMA4 = {
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 32,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "layer_types": LAYERS,
    "max_position_embeddings": 262144,
    "model_type": "gemma4_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 0,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        FULL: {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "use_double_wide_mlp": False,
    "vocab_size_per_layer_input": VOCAB,
}


def gemma4(**changes: Any) -> dict[str, Any]:
    """Gemma 4's config: the fields of the text model are nested, but not vocab_size."""
    return {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "eos_token_id": [1, 106],
        "image_token_id": VOCAB - 2,
        "text_config": GEMMA4 | changes,
        "vision_config": {"model_type": "gemma4_vision", "hidden_size": 8},
        "vocab_size": VOCAB,
    }


def gpt_oss(layers: int) -> dict[str, Any]:
    """gpt-oss' config; the published one says nothing of key and value heads twice."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "eos_token_id": 2,
        "experts_per_token": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "hidden_size": 64,
        "initial_context_length": 4096,
        "intermediate_size": 64,
        "layer_types": [SLIDING, FULL] * (layers // 2),
        "max_position_embeddings": 131072,
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 16,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
    }


def qwen35(kind: str, **changes: Any) -> dict[str, Any]:
    """The config of Qwen3.5 and later, whose text model is nested."""
    return {
        "model_type": kind,
        "image_token_id": VOCAB - 2,
        "text_config": QWEN35 | {"model_type": f"{kind}_text"} | changes,
        "tie_word_embeddings": False,
        "vision_config": {"model_type": kind, "depth": 2, "hidden_size": 8},
    }


QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"} | DENSE
QWEN3 |= {"attention_bias": False, "rope_scaling": None, "sliding_window": None}
QWEN35_MOE = {"shared_expert_intermediate_size": 32, **EXPERTS}
LFM2 = {
    "model_type": "lfm2",
    "block_auto_adjust_ff_dim": True,
    "block_dim": 64,
    "block_ff_dim": 96,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 16,
    "conv_L_cache": 3,
    "conv_bias": False,
    "conv_dim": 64,
    "full_attn_idxs": [2],
    "hidden_size": 64,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "num_attention_heads": 4,
    "num_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "vocab_size": VOCAB,
}
LLAMA31 = DENSE | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "eos_token_id": [1, 2, 3],
    "mlp_bias": False,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
}
LATENT = {
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 16,
}

# By the alias in hub/pairs.toml, and other forms by a name with a space.
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-4b": QWEN3,
    "qwen3-8b": QWEN3,
    "qwen3-14b": QWEN3 | {"max_window_layers": 4, "use_sliding_window": False},
    "qwen3 with YaRN": QWEN3
    | {
        "max_position_embeddings": 64,
        "rope_scaling": {
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_type": "yarn",
        },
    },
    "qwen3-coder-30b": QWEN3
    | EXPERTS
    | {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"},
    "qwen3-coder-next": DENSE
    | LINEAR
    | EXPERTS
    | {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "partial_rotary_factor": 0.25,
        "rope_scaling": None,
        "shared_expert_intermediate_size": 32,
    },
    **{
        f"qwen{name}": qwen35("qwen3_5")
        for name in ("3.5-4b", "3.5-9b", "3.5-27b", "3.6-27b", "3.8-27b")
    },
    **{
        f"qwen{name}": qwen35("qwen3_5_moe", **QWEN35_MOE)
        for name in ("3.5-35b", "3.5-122b", "3.5-397b", "3.6-35b")
    },
    "llama3.1-8b": LLAMA31,
    "gpt-oss-20b": gpt_oss(2),
    "gpt-oss-120b": gpt_oss(4),
    "gemma4-12b": gemma4(),
    "gemma4-31b": gemma4(attention_k_eq_v=True, num_global_key_value_heads=1),
    "gemma4-26b": gemma4(
        enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=32
    ),
    "muse-glimmer-30b": DENSE
    | {
        "model_type": "muse_glimmer",
        "final_logit_softcapping": 20.0,
        "hidden_activation": "silu",
        "layer_types": LAYERS,
        "output_multiplier": 0.5,
        "post_norm_eps": 1e-8,
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        "sliding_window": 16,
    },
    "lfm2.5-1.2b": LFM2,
    "lfm2.5-8b": LFM2
    | {
        "model_type": "lfm2_moe",
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "num_dense_layers": 1,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": True,
    },
    "nanbeige4.2-3b": DENSE | {"model_type": "nanbeige", "num_loops": 2},
    "minicpm5-2b": DENSE | {"model_type": "llama", "rope_scaling": None},
    # Of Gemma 3 4B's text model, the published file has a few fields only.
    "gemma 3": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "image_token_index": VOCAB - 2,
        "text_config": {
            "head_dim": 16,
            "hidden_size": 64,
            "intermediate_size": 96,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 6,
            "num_key_value_heads": 2,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 16,
        },
        "vision_config": {"hidden_size": 8, "model_type": "siglip_vision_model"},
    },
    "gpt 2": {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_ctx": 1024,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 4,
        "n_positions": 1024,
        "num_heads": 4,
        "vocab_size": VOCAB,
    },
    "mistral small": {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": VOCAB - 2,
        "text_config": DENSE | {"model_type": "mistral"},
        "vision_config": {"hidden_size": 8, "model_type": "pixtral"},
    },
    "kimi k2.5": {
        "architectures": ["KimiK25ForConditionalGeneration"],
        "model_type": "kimi_k25",
        "media_placeholder_token_id": VOCAB - 2,
        "text_config": DENSE
        | LATENT
        | {
            "model_type": "kimi_k2",
            "max_position_embeddings": 262144,
            "num_key_value_heads": 4,
            "rope_scaling": {
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 64.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
            "rope_theta": 50000.0,
        },
        "vision_config": {"hidden_size": 8},
    },
}
# Files that a repository has beside those that mlx-lm reads.
DUPLICATES = {"mistral small": "consolidated.safetensors"}


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write a random checkpoint in a published form; return its folder.

    Args:
        name: A key of CONFIGS.
        folder: A new folder.
    """
    folder.mkdir()
    config = CONFIGS[name]
    kind = MODEL_REMAPPING.get(config["model_type"], config["model_type"])
    module = import_module(f"mlx_lm.models.{kind}")
    mx.random.seed(0)
    # The arguments' classes change the config that they get.
    args = module.ModelArgs.from_dict(json.loads(json.dumps(config)))
    model = randomize_weights(module.Model(args), "float32", 1.0)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_FOLDER / file, folder)
    if name in DUPLICATES:
        shutil.copy(folder / "model.safetensors", folder / DUPLICATES[name])
    return folder
