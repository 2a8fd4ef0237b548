"""The packaging of the library `speculators`, of DFlash, DFlash 2 and DSpark heads.

Owns its conventions: which slot drafts first, how taps are counted, and how a reduced
vocabulary is written.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ...errors import ConfigError, WeightsError
from .checkpoint import Config
from .config import DFlash2Config, DFlashConfig, DSparkConfig
from .fields import QWEN
from .packaging import SPECULATORS_KEYS, Settled, Weights, stripped, taps_of

SPECULATORS = {"dflash": DFlashConfig, "dflash2": DFlash2Config, "dspark": DSparkConfig}


def algorithm(config):
    told = config.root.get("speculators_config") or {}
    config.check("speculators_config", isinstance(told, dict))
    return config.root.get("speculators_model_type") or told.get("algorithm")


def is_speculators(kind):
    return lambda config: algorithm(config) == kind


def speculators(kind: str) -> Callable[[Config], Settled]:
    """speculators: taps counted from the embeddings, windows fixed at the anchor,
    sliding layers causal in the block unless it says otherwise."""

    def settle(config):
        config.get("aux_hidden_state_layer_ids", list)  # it must be there
        symmetric = config.get("sliding_window_non_causal", bool, kind == "dflash2")
        rope = config.get("rope_parameters", dict, None) or {}
        from_anchor, why = anchor_slot(config, kind)
        fields = {
            **taps_of(config, "aux_hidden_state_layer_ids", 1),
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


def anchor_slot(config: Config, kind: str) -> tuple[bool, str]:
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


def reduced_vocabulary(weights: Weights) -> Weights:
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
