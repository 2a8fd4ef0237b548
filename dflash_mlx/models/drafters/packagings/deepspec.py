"""DeepSpec's packagings of DSpark, for Qwen3, Qwen3.5 and Gemma 4.

DeepSpec's config.json is a copy of the target's with the drafter's fields added, so
some of its fields describe the target and must not be read.
"""

from __future__ import annotations

from ..config import DSparkConfig
from ..config_file import ConfigFile
from .base import Overrides, Packaging, Weights, has_architecture, without_prefix

# Fields that describe the target.
COPIED = (
    "layer_types",
    "sliding_window",
    "rope_scaling",
    "is_causal",
    "partial_rotary_factor",
    "attention_k_eq_v",
    "model_type",
)


def override_copied(file: ConfigFile) -> Overrides:
    """Drop the fields that describe the target; of the rope keep the base."""
    rope = file.get("rope_parameters", dict, {})
    theta = rope.get("rope_theta") or file.get("rope_theta", float)
    fields = dict.fromkeys(COPIED) | {
        "rope_parameters": {"rope_theta": theta},
        "rope_theta": theta,
    }
    ignored = [name for name in COPIED if file.has(name) and name != "model_type"]
    notes = [f"fields of the target, ignored: {', '.join(ignored)}"] if ignored else []
    return fields, notes


def override_qwen35(file: ConfigFile) -> Overrides:
    """Qwen3.5's attention: gates from q_proj, and a rotation of a part of each head."""
    fields, _ = override_copied(file)
    rope = file.get("rope_parameters", dict, {})
    share = rope.get("partial_rotary_factor")
    if share is None:
        share = file.get("partial_rotary_factor", float, 1.0)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise file.invalid("partial_rotary_factor", share)
    fields["partial_rotary_factor"] = float(share)
    if file.get("enable_qwen35_gated_q_proj", bool, True):
        fields["attention_gate"] = "per-element"
    return fields, ["norm weights are stored as offsets from 1"]


def add_one_to_norms(weights: Weights) -> Weights:
    """Norm weights from their offsets from 1."""
    return {
        name: array + 1 if name.endswith("norm.weight") else array
        for name, array in weights.items()
    }


def override_gemma4(file: ConfigFile) -> Overrides:
    """The sizes, heads and rope of Gemma 4's full-attention layers."""
    rope = file.get("rope_parameters", dict, {}).get("full_attention") or {}
    file.check("rope_parameters", isinstance(rope, dict))
    share = rope.get("partial_rotary_factor", 0.25)
    file.check("rope_parameters", isinstance(share, int | float) and 0 < share <= 1)
    hidden = file.get("hidden_size", int)
    shared = file.get("attention_k_eq_v", bool, True)
    heads = file.get("num_key_value_heads", int)
    if shared:
        heads = file.get("num_global_key_value_heads", int, heads)
    head_dim = file.get("head_dim", int)
    return {
        **dict.fromkeys(COPIED),
        "model_type": "gemma4_text",
        "attention_k_eq_v": shared,
        "num_key_value_heads": heads,
        "head_dim": file.get("global_head_dim", int, head_dim),
        "input_embedding_scale": hidden**0.5,
        "rope_parameters": {
            "rope_theta": rope.get("rope_theta", 1_000_000.0),
            "rope_type": rope.get("rope_type", "proportional"),
            "partial_rotary_factor": share,
        },
        "rope_theta": None,
        "final_logit_softcapping": file.get("final_logit_softcapping", float, 30.0),
    }, ["layers are Gemma 4's full-attention layers"]


QWEN3 = Packaging(
    "DeepSpec",
    DSparkConfig,
    has_architecture("Qwen3DSparkModel"),
    override_copied,
    own_fields={"quantization_config"},
    requires_depth=False,
)
QWEN35 = Packaging(
    "Qwen3.5 DSpark",
    DSparkConfig,
    has_architecture("Qwen35DSparkModel"),
    override_qwen35,
    add_one_to_norms,
    {"enable_qwen35_gated_q_proj", "quantization_config"},
    requires_depth=False,
)
GEMMA4 = Packaging(
    "Gemma 4 DSpark",
    DSparkConfig,
    has_architecture("Gemma4DSparkModel"),
    override_gemma4,
    without_prefix,
    requires_depth=False,
)
