"""The packagings of the library `speculators`, for DFlash, DFlash 2 and DSpark.

Owns their conventions: which slot drafts first, taps that count the embeddings, windows
that end at the anchor, and how a reduced vocabulary is written.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ....errors import WeightsError
from ..config import DFlash2Config, DFlashConfig, DSparkConfig
from ..config_file import ConfigFile
from ..fields import QWEN
from .base import (
    SPECULATORS_KEYS,
    Overrides,
    Packaging,
    Weights,
    shifted_taps,
    without_prefix,
)

KINDS = {"dflash": DFlashConfig, "dflash2": DFlash2Config, "dspark": DSparkConfig}
FIELDS = {
    *SPECULATORS_KEYS,
    "aux_hidden_state_layer_ids",
    "sliding_window_non_causal",
    "use_sliding_window",
}


def is_kind(kind: str) -> Callable[[ConfigFile], bool]:
    """Whether a config.json is of one of KINDS."""

    def matches(file):
        options = file.root.get("speculators_config") or {}
        file.check("speculators_config", isinstance(options, dict))
        return kind == (
            file.root.get("speculators_model_type") or options.get("algorithm")
        )

    return matches


def override(kind: str) -> Callable[[ConfigFile], Overrides]:
    """The overrides of one of KINDS."""

    def overrides(file):
        file.get("aux_hidden_state_layer_ids", list)  # required
        symmetric = file.get("sliding_window_non_causal", bool, kind == "dflash2")
        rope = file.get("rope_parameters", dict, None) or {}
        predicts, note = anchor_predicts(file, kind)
        fields = {
            **shifted_taps(file, "aux_hidden_state_layer_ids"),
            "window_from_anchor": True,
            "is_causal": False if symmetric else None,
            "sample_from_anchor": predicts,
            "block_size": file.get("block_size", int, 8),
            "model_type": QWEN,
            "attention_k_eq_v": None,
        }
        if nested := rope.get("sliding_attention"):
            fields["rope_parameters"] = nested
        if file.get("use_sliding_window", bool, True) is False:
            fields |= {"layer_types": None, "sliding_window": None}
        if kind == "dflash2":
            sizes = {"conv_kernel_size": 2, "conv_group_size": 16}
            sizes |= {"selector_rank": 256, "selector_top_k": 16}
            fields |= {k: file.get(k, int, v) for k, v in sizes.items()}
        return fields, [
            "aux_hidden_state_layer_ids counts the embeddings as 0: shifted by -1",
            note,
        ]

    return overrides


def anchor_predicts(file: ConfigFile, kind: str) -> tuple[bool, str]:
    """Whether the anchor's slot predicts, and a note on where that is written.

    Older DSpark heads have no sample_from_anchor and their anchor's slot does not
    predict, although the default of their class is that it does. There the number of
    proposed tokens decides.
    """
    options = file.root.get("speculators_config") or {}
    methods = options.get("proposal_methods") or [{}]
    listed = isinstance(methods, list) and isinstance(methods[0], dict)
    file.check("speculators_config", listed)
    tokens = methods[0].get("speculative_tokens")
    given = file.get("sample_from_anchor", bool, None)
    if kind == "dspark" and type(tokens) is int:
        spare = file.get("block_size", int, 8) - tokens
        if spare in (0, 1):
            if given not in (None, spare == 0):
                raise file.conflict(
                    f"sets sample_from_anchor to {given}, but speculative_tokens to "
                    f"{tokens} for blocks of {tokens + spare}, which means {not given}"
                )
            source = f"speculative_tokens ({tokens})"
            return spare == 0, f"{source} decides whether the anchor's slot predicts"
    if given is not None:
        return given, "sample_from_anchor decides whether the anchor's slot predicts"
    return False, "no field decides whether the anchor's slot predicts: assumed not"


def check_vocabulary_map(weights: Weights) -> Weights:
    """Check `d2t`, the offsets from draft ids to target ids, and drop `t2d`.

    Raises:
        WeightsError: The two list different tokens.
    """
    weights = without_prefix(weights)
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
            "The checkpoint's d2t and t2d list different tokens.", "Download it again."
        )
    if mask is not None and mask.size == offsets.size and ids == sorted(ids):
        del weights["d2t"]  # the whole vocabulary, written as a map
    return weights


SPECULATORS = tuple(
    Packaging(
        f"speculators {kind}",
        config,
        is_kind(kind),
        override(kind),
        check_vocabulary_map,
        FIELDS,
        requires_depth=False,
    )
    for kind, config in KINDS.items()
)
