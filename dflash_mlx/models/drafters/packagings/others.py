"""Packagings of a single publisher: SpecForge, LiquidAI, Laguna and Muse."""

from __future__ import annotations

import mlx.core as mx

from ....errors import WeightsError
from ..config import DFlashConfig, DSparkConfig
from ..config_file import ConfigFile
from ..fields import QWEN
from .base import (
    Overrides,
    Packaging,
    Weights,
    has_architecture,
    shifted_taps,
    without_prefix,
)


def is_specforge(file: ConfigFile) -> bool:
    """Whether the architecture or the projector is SpecForge's DSpark."""
    projectors = file.places_of("projector_type").values()
    named = has_architecture("DSparkDraftModel")(file)
    return named or any(kind == "dspark" for kind in projectors)


def qwen_body(file: ConfigFile) -> Overrides:
    """The file's model_type is the publisher's; the layers are Qwen3's."""
    return {"model_type": QWEN}, []


def override_laguna(file: ConfigFile) -> Overrides:
    """Laguna's gates per head and norms of the tapped outputs."""
    file.check("gating", file.get("gating", str) == "per-head")
    causal = file.get("causal", bool)
    return {
        **shifted_taps(file, "eagle_aux_hidden_state_layer_ids"),
        "attention_gate": "per-head",
        "norm_taps": True,
        "norm_context": True,
        "is_causal": causal,
        "model_type": QWEN,
    }, []


def split_qkv(weights: Weights) -> Weights:
    """Split qkv_proj [(heads + 2 kv heads) * head_dim, H] into three projections.

    Raises:
        WeightsError: There is no o_proj, whose width is heads * head_dim.
    """
    found: Weights = {}
    weights = without_prefix(weights)
    for name, array in weights.items():
        if not name.endswith("qkv_proj.weight"):
            found[name] = array
            continue
        prefix = name.removesuffix("qkv_proj.weight")
        if f"{prefix}o_proj.weight" not in weights:
            raise WeightsError(
                f"The checkpoint is missing {prefix}o_proj.weight.",
                "Download it again.",
            )
        queries = weights[f"{prefix}o_proj.weight"].shape[1]
        keys = (array.shape[0] - queries) // 2
        for part, rows in zip(
            "qkv", mx.split(array, [queries, queries + keys]), strict=True
        ):
            found[f"{prefix}{part}_proj.weight"] = rows
    return found


def rename_encoder(weights: Weights) -> Weights:
    """Muse's names for the projection of the features and its norm, as ours."""
    names = {
        "encoder.fc.weight": "fc.weight",
        "encoder.output_norm_enc.weight": "hidden_norm.weight",
    }
    return {names.get(name, name): a for name, a in without_prefix(weights).items()}


SPECFORGE = Packaging(
    "SpecForge DSpark", DSparkConfig, is_specforge, own_fields={"projector_type"}
)
LIQUID = Packaging(
    "LiquidAI DSpark",
    DSparkConfig,
    has_architecture("Lfm2DSparkDraftModel"),
    qwen_body,
)
LAGUNA = Packaging(
    "Laguna",
    DFlashConfig,
    lambda file: file.root.get("model_type") == "laguna",
    override_laguna,
    split_qkv,
    {"gating", "causal", "eagle_aux_hidden_state_layer_ids"},
)
MUSE = Packaging(
    "the Muse assistant",
    DFlashConfig,
    lambda file: file.root.get("model_type") == "muse_glimmer_assistant",
    qwen_body,
    rename_encoder,
)
