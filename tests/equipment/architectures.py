"""A tiny random model of every architecture that the installed mlx-lm knows.

Owns the small numbers. mlx-lm's own configuration classes name their fields; most
mean the same everywhere, so one table of values serves all, and the few
architectures that need more are listed with what they need.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.models
from mlx.utils import tree_map_with_path

VOCAB = 96
LAYERS = 4
HIDDEN = 64
WINDOW = 16

# Field -> value, for every configuration class that has the field.
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-6,
    "layer_norm_epsilon": 1e-6,
    "layernorm_epsilon": 1e-6,
    "norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "tie_word_embeddings": False,
    "sliding_window": WINDOW,
    "sliding_window_size": WINDOW,
    "partial_rotary_factor": 0.5,
    # experts
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "moe_top_k": 2,
    "moe_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "num_shared_expert": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 16,
    # recurrent layers
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "state_size": 8,
    "ssm_state_size": 8,
    "conv_kernel": 4,
    "conv_kernel_size": 4,
    "mamba_d_conv": 4,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 256,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
    "n_groups": 1,
    # granite, minicpm
    "logits_scaling": 2.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "dim_model_base": 32,
    "scale_depth": 1.4,
    "scale_emb": 3.0,
    # GPT-2's words
    "n_embd": HIDDEN,
    "n_head": 4,
    "n_layer": LAYERS,
    "n_positions": 4096,
    "n_ctx": 4096,
    "n_inner": 96,
}
SLIDING = ["sliding_attention"] * 3 + ["full_attention"]
ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
BLOCK = {
    "attention": {"no_op": False, "replace_with_linear": False, "n_heads_in_group": 2},
    "ffn": {"no_op": False, "replace_with_linear": False, "ffn_mult": 1.5},
}
KDA = {
    "num_heads": 4,
    "head_dim": 16,
    "kda_layers": [1, 2, 3],
    "full_attn_layers": [4],
    "short_conv_kernel_size": 4,
}

LONGCAT = {
    "zero_expert_type": "identity",
    "ffn_hidden_size": 96,
    "zero_expert_num": 2,
    "num_layers": LAYERS,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}

# What an architecture needs beside, or instead of, the common values.
SPECIAL: dict[str, dict[str, Any]] = {
    "afm7": {
        "hidden_dim": HIDDEN,
        "num_layers": LAYERS,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "afmoe": {"layer_types": SLIDING, "num_dense_layers": 1},
    "apertus": {"post_norm": True, "qk_norm": True},
    "baichuan_m1": {"sliding_window_layers": [1, 2], "conv_window": 2},
    "bailing_hybrid": {"layer_group_size": 4, "group_norm_size": 1},
    "bailing_moe_linear": {"layer_group_size": 4, "group_norm_size": 1},
    "dbrx": {
        "d_model": HIDDEN,
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "n_layers": LAYERS,
        "n_heads": 4,
    },
    "deepseek_v2": {
        "rope_scaling": {"type": "yarn", "factor": 2.0},
        "topk_method": "gready",
    },
    "exaone": {"num_layers": LAYERS},
    "exaone4": {"rope_scaling": None, "sliding_window_pattern": "LLLG"},
    "exaone_moe": {
        "layer_types": SLIDING,
        "is_moe_layer": [False, True, True, True],
    },
    "falcon_h1": {"mamba_norm_before_gate": False, "mamba_rms_norm": False},
    "gear": {
        "layer_types": [
            "conv_mixer",
            "sliding_attention",
            "conv_mixer",
            "full_attention",
        ]
    },
    "gemma3_text": {"sliding_window_pattern": 4, "query_pre_attn_scalar": 16},
    "gemma3n": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * LAYERS,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 16,
        "rope_local_base_freq": 10000.0,
        "final_logit_softcapping": 30.0,
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    },
    "gemma4_text": {
        "num_hidden_layers": 8,
        "layer_types": SLIDING * 2,
        "num_kv_shared_layers": 2,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 16,
        "tie_word_embeddings": True,
    },
    "glm4_moe": {"rope_scaling": None, "use_qk_norm": True},
    "glm_moe_dsa": {"rope_parameters": {"rope_theta": 10000.0}},
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {
        "layer_types": ["mamba", "mamba", "mamba", "attention"],
        "shared_intermediate_size": 32,
        "mamba_conv_bias": True,
        "position_embedding_type": "nope",
        "time_step_limit": (0.001, 100.0),
    },
    "hunyuan": {
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_dt_rank": 4,
    },
    "kimi_k3": {
        "linear_attn_config": KDA,
        "activation_situ_beta": 1.0,
        "activation_situ_linear_beta": 1.0,
        "attn_res_block_size": 2,
    },
    "kimi_linear": {"linear_attn_config": KDA, "model_max_length": 4096},
    "laguna": {
        "layer_types": ["full_attention"] + ["sliding_attention"] * 3,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_attention_heads_per_layer": [4, 2, 4, 2],
    },
    "lfm2": {
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": HIDDEN,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "full_attn_idxs": [2],
    },
    "lfm2_moe": {
        "conv_bias": False,
        "conv_L_cache": 3,
        "num_dense_layers": 1,
        "use_expert_bias": True,
        "full_attn_idxs": [2],
    },
    "lille-130m": {"block_size": 4096, "n_kv_heads": 2},
    "llama": {"layer_types": SLIDING},
    "llama4": {
        "attention_chunk_size": WINDOW,
        "interleave_moe_layer_step": 2,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 96,
        "rope_scaling": None,
        "use_qk_norm": True,
    },
    "llama4_text": {
        "intermediate_size_mlp": 96,
        "no_rope_layers": [1, 1, 1, 0],
        "use_qk_norm": True,
    },
    "longcat_flash": LONGCAT | {"attention_method": "MLA"},
    "longcat_flash_ngram": LONGCAT | {"ngram_vocab_size_ratio": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "time_step_limit": (0.001, 100.0)},
    "mellum": {"layer_types": SLIDING, "rope_parameters": ROPES},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "minicpm3": {"rope_scaling": {"type": "longrope"}},
    "minimax": {"shared_intermediate_size": 32, "rotary_dim": 8},
    "minimax_m3_vl": {
        "dense_intermediate_size": 96,
        "rotary_dim": 8,
        "moe_layer_freq": [0, 1, 1, 1],
        "shared_intermediate_size": 32,
    },
    "ministral3": {
        "layer_types": SLIDING,
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "default",
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 4096,
        },
    },
    "mistral4": {
        "rope_parameters": {
            "rope_theta": 10000.0,
            "rope_type": "default",
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 4096,
        }
    },
    "muse_spark": {
        "post_norm_eps": 1e-8,
        "rope_parameters": {"rope_theta": 10000.0},
        "layer_rope_theta": [10000.0, 10000.0, 10000.0, 0.0],
        "layer_types": SLIDING,
        "final_logit_softcapping": 20.0,
        "output_multiplier": 0.5,
        "moe_hidden_size": HIDDEN,
        "mlp_layer_types": ["sparse"] * LAYERS,
        "num_shared_experts": 0,
    },
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {"block_configs": [BLOCK] * LAYERS},
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "E", "M", "*"],
        "time_step_limit": (0.001, 100.0),
        "moe_shared_expert_intermediate_size": 32,
    },
    "olmo_hybrid": {"linear_allow_neg_eigval": True},
    "openelm": {
        "num_transformer_layers": LAYERS,
        "model_dim": HIDDEN,
        "ffn_dim_divisor": 16,
        "num_query_heads": [4] * LAYERS,
        "num_kv_heads": [2] * LAYERS,
        "ffn_multipliers": [1.0] * LAYERS,
    },
    "phi3small": {
        "vocab_size": 100352,  # it masks ids from 100256 on
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 96,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 64,
    },
    "phixtral": {
        "num_vocab": VOCAB,
        "model_dim": HIDDEN,
        "num_heads": 4,
        "num_layers": LAYERS,
        "rotary_dim": 8,
    },
    "plamo": {"n_shared_head": 2},
    "plamo2": {"hidden_size_per_head": 16, "attention_window_size": WINDOW},
    "plamo3": {"window_size": WINDOW, "sliding_window_pattern": 4},
    "qwen": {"kv_channels": 16},
    "qwen3_5": {"num_experts": 0},
    "qwen3_next": {"mlp_only_layers": []},
    "recurrent_gemma": {
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv7": {
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
        "head_dim": 32,
    },
    "spark2_5": {"rope_parameters": ROPES, "layer_types": SLIDING},
    "stablelm": {"use_qkv_bias": True},
    "step3p5": {
        "num_attention_groups": 2,
        "layer_types": SLIDING,
        "rope_theta": [10000.0] * LAYERS,
        "partial_rotary_factors": [0.5] * LAYERS,
        "attention_other_setting": {
            "num_attention_heads": 4,
            "num_attention_groups": 2,
        },
        "share_expert_dim": 32,
        "moe_layers_enum": "1,2,3",
    },
}

# Where weights of the usual spread say one token for ever.
SPREAD = {
    "phi3small": {"spread": 8.0},
    "gemma2": {"embedding": 0.05},
    "gemma3n": {"embedding": 0.005},
    "gemma4": {"embedding": 0.02},
    "gemma4_text": {"embedding": 0.02},
}

# Architectures that wrap a text model: whose special values it takes.
INSIDE = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n",
    "gemma4": "gemma4_text",
    "kimi_k25": "deepseek_v3",
    "kimi_k3": "kimi_k3",
    "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2",
    "llama4": "llama4",
    "minimax_m3_vl": "minimax_m3_vl",
    "mistral3": "ministral3",
    "muse_spark": "muse_spark",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}


def names() -> list[str]:
    """Every module of mlx_lm.models; some are helpers without a model."""
    return [module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)]


def config_of(name: str) -> dict[str, Any]:
    """A tiny config.json of an architecture, as mlx-lm reads it."""
    inner = INSIDE.get(name, name)
    config = COMMON | SPECIAL.get(inner, {}) | {"model_type": inner}
    if name in INSIDE:
        return {"model_type": name, "text_config": config, "vocab_size": VOCAB}
    return config


def build(name: str, dtype: str = "float32", seed: int = 0) -> nn.Module | None:
    """A random model of an architecture; None for a module that holds no model.

    Args:
        name: A module of mlx_lm.models.
        dtype: As in `dressed`.
        seed: For the weights.
    """
    module = import_module(f"mlx_lm.models.{name}")
    if "ModelArgs" not in vars(module) or "Model" not in vars(module):
        return None
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config_of(name)))
    return dressed(model, dtype, **SPREAD.get(name, {}))


def dressed(
    model: nn.Module, dtype: str, spread: float = 3.0, embedding: float = 3.0
) -> nn.Module:
    """`model` with weights that make its greedy text vary.

    Args:
        model: Fresh from its constructor.
        dtype: float32, bfloat16; 4bit (over float32) or bfloat16-4bit, in groups
            of 32 where they fit.
        spread: What matrices are multiplied with; what starts as zeros is drawn at
            random.
        embedding: What the embedding is multiplied with.
    """

    def dress(path, weight):
        if not mx.issubdtype(weight.dtype, mx.floating):
            return weight
        if not weight.any():
            return 0.1 * mx.random.normal(weight.shape, weight.dtype)
        scale = embedding if "embed" in path else spread
        return weight * scale if weight.ndim > 1 else weight

    model.update(tree_map_with_path(dress, model.parameters()))
    precision = dtype.removesuffix("4bit").removesuffix("-") or "float32"
    model.set_dtype(getattr(mx, precision))
    if dtype.endswith("4bit"):
        nn.quantize(model, 32, 4, class_predicate=_quantizable)
    model.eval()
    mx.eval(model.parameters())
    return model


def _quantizable(path, module):
    return "to_quantized" in dir(module) and module.weight.shape[-1] % 32 == 0
