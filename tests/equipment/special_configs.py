"""Configuration fields of the architectures that need more than the common values."""

from __future__ import annotations

from typing import Any

from tests.equipment.common_config import HIDDEN, LAYERS, VOCAB, WINDOW

SLIDING = ["sliding_attention"] * 3 + ["full_attention"]
ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
NAS_BLOCK = {
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

# Architecture -> fields that it needs in addition to, or instead of, the common ones.
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
    "nemotron-nas": {"block_configs": [NAS_BLOCK] * LAYERS},
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
