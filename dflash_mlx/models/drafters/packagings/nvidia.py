"""NVIDIA's packagings of DFlash and DSpark.

Owns their conventions: taps that count the embeddings, causal blocks, and one sliding
window for all layers.
"""

from __future__ import annotations

from typing import Any

from ..config import DFlashConfig, DSparkConfig
from ..config_file import ConfigFile
from ..fields import SLIDING
from .base import (
    Overrides,
    Packaging,
    has_architecture,
    shifted_taps,
    without_prefix,
)
from .zlab import is_dflash

FIELDS = {
    "causal",
    "use_swa",
    "swa_window_size",
    "dflash_query_causal",
    "eagle_aux_hidden_state_layer_ids",
}


def has_nvidia_field(file: ConfigFile) -> bool:
    """Whether the file has a field that only NVIDIA writes."""
    return any(file.has(field) for field in FIELDS)


def override_attention(file: ConfigFile) -> Overrides:
    """Overrides of taps, windows and causality, for DFlash and DSpark."""
    fields: dict[str, Any] = {"layer_types": None, "sliding_window": None}
    causal = [file.get(n, bool, False) for n in ("causal", "dflash_query_causal")]
    fields["is_causal"] = any(causal) or None
    window = None
    given = file.has("sliding_window")
    given &= file.get("use_sliding_window", bool, True)
    if file.get("use_swa", bool, given):
        own = file.get("sliding_window", int, None)
        window = file.get("swa_window_size", int, own)
        file.check("swa_window_size", window is not None and window > 1)
    if window:
        layers = file.get("num_hidden_layers", int)
        fields |= {"layer_types": [SLIDING] * layers, "sliding_window": window}
        fields["is_causal"] = any(causal)
    return fields | shifted_taps(file, "eagle_aux_hidden_state_layer_ids"), []


def override_dspark(file: ConfigFile) -> Overrides:
    """As override_attention, and whether the anchor's slot predicts."""
    fields, notes = override_attention(file)
    # With a bonus anchor the slot does not predict; without any field it does not
    # either, as in DFlash.
    bonus = file.get("dspark_bonus_anchor", bool, None)
    predicts = file.get("sample_from_anchor", bool, None)
    if bonus is not None and predicts is bonus:
        raise file.conflict(
            f"sets both dspark_bonus_anchor and sample_from_anchor to {bonus}, but one "
            "is the opposite of the other"
        )
    if predicts is None:
        predicts = bonus is False
    fields["sample_from_anchor"] = predicts
    return fields, notes


DFLASH = Packaging(
    "NVIDIA DFlash",
    DFlashConfig,
    lambda file: is_dflash(file) and has_nvidia_field(file),
    override_attention,
    without_prefix,
    FIELDS,
    requires_depth=False,
)
DSPARK = Packaging(
    "NVIDIA DSpark",
    DSparkConfig,
    lambda file: has_architecture("Qwen3DSparkModel")(file) and has_nvidia_field(file),
    override_dspark,
    without_prefix,
    {*FIELDS, "dspark_bonus_anchor"},
    requires_depth=False,
)
