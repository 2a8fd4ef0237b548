"""The packagings of published drafters, each read under its own conventions.

Owns how a folder's config.json and tensor names are recognised, and what each
packaging means by them; the result is a config of config.py and tensors under our
names. A convention that no field states is noted, so that it can be looked at and
probed. Knows nothing of how a drafter computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from ...errors import ConfigError, WeightsError
from .checkpoint import Config
from .config import (
    QWEN,
    SLIDING,
    DFlash2Config,
    DFlashConfig,
    DSparkConfig,
)
from .packaging import (
    SPECULATORS_KEYS,
    Packaging,
    Reading,
    Settled,
    Weights,
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


def named(*architectures: str) -> Callable[[Config], bool]:
    """Whether a config has one of these architectures."""
    return lambda config: bool(set(architectures) & set(config.architectures))


def stripped(weights: Weights) -> Weights:
    """Names without a leading "model."."""
    return {name.removeprefix("model."): array for name, array in weights.items()}


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
    return fields | _taps(config, "eagle_aux_hidden_state_layer_ids", 1), []


def _taps(config: Config, field: str, shift: int) -> dict[str, Any]:
    """target_layer_ids where a packaging counts them from the embeddings.

    Raises:
        ConfigError: Both are given and do not agree, or neither is.
    """
    theirs = config.get(field, list, None)
    if theirs is None:
        return {}
    config.check(field, bool(theirs) and all(type(i) is int for i in theirs))
    ours = [tap - shift for tap in theirs]
    given = config.get("target_layer_ids", list, ours)
    # Some copies repeat target_layer_ids there, unshifted.
    if given not in (ours, theirs):
        raise ConfigError(
            f"{config.path} gives target_layer_ids as {given}, but {field} as {theirs},"
            f" which means {ours}.",
            "Remove the wrong one.",
        )
    return {"target_layer_ids": given}


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


# speculators

SPECULATORS = {"dflash": DFlashConfig, "dflash2": DFlash2Config, "dspark": DSparkConfig}


def _algorithm(config):
    told = config.root.get("speculators_config") or {}
    config.check("speculators_config", isinstance(told, dict))
    return config.root.get("speculators_model_type") or told.get("algorithm")


def _is_speculators(kind):
    return lambda config: _algorithm(config) == kind


def _speculators(kind: str) -> Callable[[Config], Settled]:
    """speculators: taps counted from the embeddings, windows fixed at the anchor,
    sliding layers causal in the block unless it says otherwise."""

    def settle(config):
        config.get("aux_hidden_state_layer_ids", list)  # it must be there
        symmetric = config.get("sliding_window_non_causal", bool, kind == "dflash2")
        rope = config.get("rope_parameters", dict, None) or {}
        from_anchor, why = _slot(config, kind)
        fields = {
            **_taps(config, "aux_hidden_state_layer_ids", 1),
            "window_from_anchor": True,
            "is_causal": False if symmetric else None,
            "sample_from_anchor": from_anchor,
            "block_size": config.get("block_size", int, 8),
            "model_type": QWEN,
            "attention_k_eq_v": None,
        }
        if nested := rope.get("sliding_attention"):
            fields["rope_parameters"] = nested
        if config.get("use_sliding_window", bool, True) is False:
            fields |= {"layer_types": None, "sliding_window": None}
        if kind == "dflash2":
            sizes = {"conv_kernel_size": 2, "conv_group_size": 16}
            sizes |= {"selector_rank": 256, "selector_top_k": 16}
            fields |= {k: config.get(k, int, v) for k, v in sizes.items()}
        return fields, [
            "aux_hidden_state_layer_ids count the embeddings as 0: shifted by -1",
            why,
        ]

    return settle


def _slot(config: Config, kind: str) -> tuple[bool, str]:
    """Whether the anchor's slot predicts, and what says so.

    Older DSpark heads omit the key and keep the anchor's slot, though the class's
    default is that it predicts; how many tokens they propose tells.
    """
    options = config.root.get("speculators_config") or {}
    methods = options.get("proposal_methods") or [{}]
    listed = isinstance(methods, list) and isinstance(methods[0], dict)
    config.check("speculators_config", listed)
    tokens = methods[0].get("speculative_tokens")
    key = config.get("sample_from_anchor", bool, None)
    if kind == "dspark" and type(tokens) is int:
        spare = config.get("block_size", int, 8) - tokens
        if spare in (0, 1):
            if key not in (None, spare == 0):
                raise ConfigError(
                    f"{config.path} gives sample_from_anchor as {key}, but "
                    f"speculative_tokens as {tokens} of a block of {tokens + spare}.",
                    "Remove the wrong one.",
                )
            return spare == 0, f"speculative_tokens {tokens} tell the anchor's slot"
    if key is not None:
        return key, "sample_from_anchor tells the anchor's slot"
    return False, "no field tells of the anchor's slot"


def _reduced(weights: Weights) -> Weights:
    """Checks `d2t`, offsets from draft ids to target ids, and drops `t2d`.

    Raises:
        WeightsError: They do not tell of the same tokens.
    """
    weights = stripped(weights)
    mask, offsets = weights.pop("t2d", None), weights.get("d2t")
    if offsets is None:
        return weights
    ids = (mx.arange(offsets.size) + offsets.astype(mx.int32)).tolist()
    distinct = len(set(ids)) == len(ids) and min(ids) >= 0
    if mask is not None:
        marked = [i for i, used in enumerate(mask.tolist()) if used]
        distinct = distinct and sorted(ids) == marked
    if not distinct:
        raise WeightsError(
            "d2t and t2d do not name the same tokens.", "Download it again."
        )
    if mask is not None and mask.size == offsets.size and ids == sorted(ids):
        del weights["d2t"]  # the whole vocabulary, spelt out
    return weights


SPECULATORS_OWN = {
    *SPECULATORS_KEYS,
    "aux_hidden_state_layer_ids",
    "sliding_window_non_causal",
    "use_sliding_window",
}

# Others


def _laguna(config) -> Settled:
    """poolside's: gates per head, a norm for each tapped output."""
    config.check("gating", config.get("gating", str) == "per-head")
    causal = config.get("causal", bool)
    return {
        **_taps(config, "eagle_aux_hidden_state_layer_ids", 1),
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
            _is_speculators(kind),
            _speculators(kind),
            _reduced,
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
