"""The packagings of published drafters, each read under its own conventions.

Owns how a folder's config.json and tensor names are recognised, and what each
packaging means by them; the result is a config of config.py and tensors under our
names. A convention that no field states is noted, so that it can be looked at and
probed. Knows nothing of how a drafter computes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from ...errors import ConfigError, WeightsError
from .checkpoint import Config
from .config import DFlash2Config, DFlashConfig, DSparkConfig
from .fields import QWEN, SLIDING
from .packaging import Packaging, Reading, Settled, Weights, named, stripped, taps_of
from .speculators import (
    SPECULATORS,
    SPECULATORS_OWN,
    is_speculators,
    reduced_vocabulary,
    speculators,
)

# What a copy of the target's config says of the target, not of the drafter.
COPIED = (
    "layer_types",
    "sliding_window",
    "rope_scaling",
    "is_causal",
    "partial_rotary_factor",
    "attention_k_eq_v",
    "model_type",
)


def read(folder: Path) -> Reading:
    """Recognise and understand the drafter in a folder.

    Raises:
        ConfigError: No packaging that is known, or a field that is wrong in it.
        MissingFilesError: There is no config.json.
    """
    config = Config(folder)
    for packaging in PACKAGINGS:
        if packaging.matches(config):
            return packaging.read(config)
    names = ", ".join(config.architectures) or config.root.get("model_type")
    raise ConfigError(
        f"{config.path} describes {names}, which this version cannot run.",
        "Choose another drafter: see `dflash-mlx models`.",
    )


# z-lab


def _plain(config):
    """z-lab's: no architecture is DFlash v1 too; older copies leave it out."""
    return not config.architectures or named("DFlashDraftModel")(config)


def _second(config):
    # Some copies keep the first architecture's name beside the second's fields.
    fields = any(config.found("selector_rank").values())
    return named("DFlash2DraftModel")(config) or (_plain(config) and fields)


# NVIDIA


def _lineage(config) -> Settled:
    """DFlash heads trained by NVIDIA: a causal block, one window for all layers."""
    fields: dict[str, Any] = {"layer_types": None, "sliding_window": None}
    causal = [config.get(n, bool, False) for n in ("causal", "dflash_query_causal")]
    fields["is_causal"] = any(causal) or None
    window = None
    given = config.has("sliding_window")
    given &= config.get("use_sliding_window", bool, True)
    if config.get("use_swa", bool, given):
        own = config.get("sliding_window", int, None)
        window = config.get("swa_window_size", int, own)
        config.check("swa_window_size", window is not None and window > 1)
    if window:
        layers = config.get("num_hidden_layers", int)
        fields |= {"layer_types": [SLIDING] * layers, "sliding_window": window}
        fields["is_causal"] = any(causal)
    return fields | taps_of(config, "eagle_aux_hidden_state_layer_ids", 1), []


NVIDIA = {
    "causal",
    "use_swa",
    "swa_window_size",
    "dflash_query_causal",
    "eagle_aux_hidden_state_layer_ids",
}


def _nvidia(config):
    return any(config.has(field) for field in NVIDIA)


def _nvidia_dspark(config) -> Settled:
    fields, notes = _lineage(config)
    # A bonus anchor is the anchor alone; without a word its slot is kept, as in DFlash.
    bonus = config.get("dspark_bonus_anchor", bool, None)
    predicts = config.get("sample_from_anchor", bool, None)
    if bonus is not None and predicts is bonus:
        raise ConfigError(
            f"{config.path} gives dspark_bonus_anchor and sample_from_anchor as "
            f"{bonus}, but they exclude each other.",
            "Remove the wrong one.",
        )
    if predicts is None:
        predicts = bonus is False
    fields["sample_from_anchor"] = predicts
    return fields, notes


# DSpark


def _copied(config) -> Settled:
    """DeepSpec writes a copy of the target's config: its rope scaling, windows and
    layer types are not the drafter's."""
    rope = config.get("rope_parameters", dict, {})
    theta = rope.get("rope_theta") or config.get("rope_theta", float)
    fields = dict.fromkeys(COPIED) | {
        "rope_parameters": {"rope_theta": theta},
        "rope_theta": theta,
    }
    passed = [name for name in COPIED if config.has(name) and name != "model_type"]
    notes = [f"{', '.join(passed)}: the target's, not read"] if passed else []
    return fields, notes


def _qwen35(config) -> Settled:
    """Qwen3.5's own attention: gates from q_proj, rotation of a part of the head."""
    fields, _ = _copied(config)
    rope = config.get("rope_parameters", dict, {})
    share = rope.get("partial_rotary_factor")
    if share is None:
        share = config.get("partial_rotary_factor", float, 1.0)
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ConfigError(f"{config.path} gives partial_rotary_factor as {share!r}.")
    fields["partial_rotary_factor"] = float(share)
    if config.get("enable_qwen35_gated_q_proj", bool, True):
        fields["attention_gate"] = "per-element"
    return fields, ["norm weights are offsets from 1"]


def _offset_norms(weights: Weights) -> Weights:
    return {
        name: array + 1 if name.endswith("norm.weight") else array
        for name, array in weights.items()
    }


def _gemma(config) -> Settled:
    """Gemma 4's full layers: their own head size, heads and rope."""
    rope = config.get("rope_parameters", dict, {}).get("full_attention") or {}
    config.check("rope_parameters", isinstance(rope, dict))
    share = rope.get("partial_rotary_factor", 0.25)
    config.check("rope_parameters", isinstance(share, int | float) and 0 < share <= 1)
    hidden = config.get("hidden_size", int)
    shared = config.get("attention_k_eq_v", bool, True)
    heads = config.get("num_key_value_heads", int)
    if shared:
        heads = config.get("num_global_key_value_heads", int, heads)
    head_dim = config.get("head_dim", int)
    return {
        **dict.fromkeys(COPIED),
        "model_type": "gemma4_text",
        "attention_k_eq_v": shared,
        "num_key_value_heads": heads,
        "head_dim": config.get("global_head_dim", int, head_dim),
        "input_embedding_scale": hidden**0.5,
        "rope_parameters": {
            "rope_theta": rope.get("rope_theta", 1_000_000.0),
            "rope_type": rope.get("rope_type", "proportional"),
            "partial_rotary_factor": share,
        },
        "rope_theta": None,
        "final_logit_softcapping": config.get("final_logit_softcapping", float, 30.0),
    }, ["layers are Gemma 4's full ones"]


# Others


def _laguna(config) -> Settled:
    """poolside's: gates per head, a norm for each tapped output."""
    config.check("gating", config.get("gating", str) == "per-head")
    causal = config.get("causal", bool)
    return {
        **taps_of(config, "eagle_aux_hidden_state_layer_ids", 1),
        "attention_gate": "per-head",
        "norm_taps": True,
        "norm_context": True,
        "is_causal": causal,
        "model_type": QWEN,
    }, []


def _unfused(weights: Weights) -> Weights:
    """qkv_proj [(nh + 2 nkv) hd, H] as three; o_proj tells nh hd."""
    found: Weights = {}
    weights = stripped(weights)
    for name, array in weights.items():
        if not name.endswith("qkv_proj.weight"):
            found[name] = array
            continue
        prefix = name.removesuffix("qkv_proj.weight")
        if f"{prefix}o_proj.weight" not in weights:
            raise WeightsError(f"The checkpoint lacks {prefix}o_proj.weight.")
        queries = weights[f"{prefix}o_proj.weight"].shape[1]
        keys = (array.shape[0] - queries) // 2
        for part, rows in zip(
            "qkv", mx.split(array, [queries, queries + keys]), strict=True
        ):
            found[f"{prefix}{part}_proj.weight"] = rows
    return found


def _muse_names(weights: Weights) -> Weights:
    names = {
        "encoder.fc.weight": "fc.weight",
        "encoder.output_norm_enc.weight": "hidden_norm.weight",
    }
    return {names.get(name, name): a for name, a in stripped(weights).items()}


def _projector(config):
    return any(v == "dspark" for v in config.found("projector_type").values())


PACKAGINGS = (
    *(
        Packaging(
            f"speculators {kind}",
            numbers,
            is_speculators(kind),
            speculators(kind),
            reduced_vocabulary,
            SPECULATORS_OWN,
            tells_depth=False,
        )
        for kind, numbers in SPECULATORS.items()
    ),
    Packaging(
        "Laguna",
        DFlashConfig,
        lambda config: config.root.get("model_type") == "laguna",
        _laguna,
        _unfused,
        {"gating", "causal", "eagle_aux_hidden_state_layer_ids"},
    ),
    Packaging(
        "the Muse assistant",
        DFlashConfig,
        lambda config: config.root.get("model_type") == "muse_glimmer_assistant",
        lambda config: ({"model_type": QWEN}, []),
        _muse_names,
    ),
    Packaging(
        "SpecForge DSpark",
        DSparkConfig,
        lambda config: named("DSparkDraftModel")(config) or _projector(config),
        own={"projector_type"},
    ),
    Packaging(
        "NVIDIA DSpark",
        DSparkConfig,
        lambda config: named("Qwen3DSparkModel")(config) and _nvidia(config),
        _nvidia_dspark,
        stripped,
        {*NVIDIA, "dspark_bonus_anchor"},
        tells_depth=False,
    ),
    Packaging(
        "Gemma 4 DSpark",
        DSparkConfig,
        named("Gemma4DSparkModel"),
        _gemma,
        stripped,
        tells_depth=False,
    ),
    Packaging(
        "Qwen3.5 DSpark",
        DSparkConfig,
        named("Qwen35DSparkModel"),
        _qwen35,
        _offset_norms,
        {"enable_qwen35_gated_q_proj", "quantization_config"},
        tells_depth=False,
    ),
    Packaging(
        "DeepSpec",
        DSparkConfig,
        named("Qwen3DSparkModel"),
        _copied,
        own={"quantization_config"},
        tells_depth=False,
    ),
    Packaging(
        "LiquidAI DSpark",
        DSparkConfig,
        named("Lfm2DSparkDraftModel"),
        lambda config: ({"model_type": QWEN}, []),
    ),
    Packaging("z-lab DFlash 2", DFlash2Config, _second),
    Packaging(
        "NVIDIA DFlash",
        DFlashConfig,
        lambda config: _plain(config) and _nvidia(config),
        _lineage,
        stripped,
        NVIDIA,
        tells_depth=False,
    ),
    Packaging("z-lab DFlash", DFlashConfig, _plain),
)
