"""What a packaging of drafters is, and the strictness that all of them share.

A packaging recognises its config.json, settles the fields that it means otherwise, and
renames its tensors; a field that would change what is computed and that it does not
know is refused by name. The packagings themselves are in packagings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from ...errors import ConfigError
from .checkpoint import Config
from .config import (
    KINDS,
    OURS,
    DFlashConfig,
    DSparkConfig,
)
from .fields import SLIDING

Weights = dict[str, mx.array]
Settled = tuple[dict[str, Any], list[str]]

SPECULATORS_KEYS = ("speculators_model_type", "speculators_config")
# Fields of some drafter that change what is computed: refused where not understood.
MEANINGFUL = set().union(*(kind.names() for kind in KINDS)) | {
    "causal",
    "use_swa",
    "swa_window_size",
    "dflash_query_causal",
    "projector_type",
    "sliding_window_non_causal",
    "aux_hidden_state_layer_ids",
    "eagle_aux_hidden_state_layer_ids",
    "enable_qwen35_gated_q_proj",
    "gating",
    "dspark_bonus_anchor",
    "selector_vocab_size",
    "attention_bias",
    "quantization_config",
    "hidden_act",
    *SPECULATORS_KEYS,
}
# Hints for other programs' run time, and fields that mean nothing here.
HARMLESS = {
    "runtime_block_size",
    "draft_window_size",
    "block_size_policy",
    "dflash_initial_block_size",
    "num_anchors",
    "loss_decay_gamma",
}


@dataclass(frozen=True)
class Reading:
    """A folder's config as it was understood.

    Args:
        packaging: Its name.
        config: The numbers.
        notes: Conventions that were followed.
        tensors: The file's tensors under our names.
    """

    packaging: str
    config: DFlashConfig
    notes: tuple[str, ...]
    tensors: Callable[[Weights], Weights]


@dataclass(frozen=True)
class Packaging:
    """One way in which drafters are published.

    Args:
        name: As in messages.
        kind: The config's class.
        matches: Whether a config is of it.
        settle: Fields as we mean them where the packaging means something else, and
            notes.
        tensors: Renames and reshapes the file's tensors.
        own: Meaningful fields that `settle` takes care of.
        tells_depth: Its configs always have num_target_layers.
    """

    name: str
    kind: type[DFlashConfig]
    matches: Callable[[Config], bool]
    settle: Callable[[Config], Settled] = lambda config: ({}, [])
    tensors: Callable[[Weights], Weights] = lambda weights: weights
    own: Collection[str] = ()
    tells_depth: bool = True

    def read(self, config: Config) -> Reading:
        """Understand a config of this packaging.

        Raises:
            ConfigError: With file and field.
        """
        known = self.kind.names() | {"rope_parameters", "rope_scaling"} | set(self.own)
        refuse(config, known, self.name)
        # A null says that nobody knows.
        if self.tells_depth and "num_target_layers" not in config.root:
            config.get("num_target_layers", int)
        fields, notes = self.settle(config)
        if config.root.get("packaging") != OURS:
            # At the root it is the target's, unless the packaging's own code reads it.
            fields.setdefault("partial_rotary_factor", None)
        settled = config.settle(fields)
        numbers = self.kind.of(settled)
        return Reading(self.name, numbers, (*notes, *told(numbers)), self.tensors)


def with_tensors(config: DFlashConfig, names: Collection[str]) -> DFlashConfig:
    """The config as the tensors have it: tables, heads and biases that are there.

    Args:
        config: As read.
        names: The tensors' names, ours.
    """
    found: dict[str, Any] = {
        "has_embed_tokens": "embed_tokens.weight" in names,
        # A reduced vocabulary has no head but its own.
        "has_lm_head": "lm_head.weight" in names or bool(config.draft_vocab_size),
    }
    if isinstance(config, DSparkConfig):
        found["enable_confidence_head"] = "confidence_head.proj.weight" in names
        found["markov_bias"] = any(
            f"markov_head.{name}_proj.bias" in names for name in ("gate", "joint")
        )
    return replace(config, **found)


def refuse(config: Config, known: Collection[str], packaging: str) -> None:
    """Raise ConfigError, by name, for fields that would be passed over in silence."""
    packed = config.root.get("quantization_config") or {}
    config.check("quantization_config", isinstance(packed, dict))
    if packed and packed == config.root.get("quantization"):  # mlx-lm writes it twice
        known = {*known, "quantization_config"}
    method = packed.get("quant_method")
    if method and "quantization_config" not in known:
        raise ConfigError(
            f"{config.path} describes tensors quantized by {method}.",
            "Use the drafter's 16-bit repository, and --draft-quantize.",
        )
    if all(value == "silu" for value in config.found("hidden_act").values()):
        known = {*known, "hidden_act"}
    # Here the drafter alone is described: what is not known is not harmless.
    for place in ("dflash_config", "dspark_config"):
        for field, value in (config.root.get(place) or {}).items():
            if field not in known and field not in HARMLESS and value:
                raise unknown(config, field, packaging)
    for field in MEANINGFUL - set(known):
        found = config.found(field)
        if any(found.values()) or (found and field in SPECULATORS_KEYS):
            raise unknown(config, field, packaging)


def unknown(config: Config, field: str, packaging: str) -> ConfigError:
    """The error for a field that a packaging does not have."""
    return ConfigError(
        f"{config.path} sets {field}, which this version does not know in a checkpoint "
        f"of {packaging}.",
        "Choose another drafter, or remove the field if it means nothing.",
    )


def told(config: DFlashConfig) -> list[str]:
    """What a reading comes to, in words."""
    slot = "predicts too" if config.sample_from_anchor else "is discarded"
    drafts = config.block_size - config.first_draft_row
    notes = [
        f"the anchor's slot {slot}: {drafts} drafts from {config.block_size} rows",
        f"taps are outputs of 0-based layers {list(config.target_layer_ids)}",
    ]
    sliding = sum(kind == SLIDING for kind in config.layer_types)
    if sliding:
        causal = "symmetric" if config.is_causal is False else "causal"
        notes.append(
            f"{sliding} of {config.num_hidden_layers} layers slide over "
            f"{config.sliding_window} rows, {causal} in the block"
        )
    elif config.is_causal:
        notes.append("every layer is causal in the block")
    if config.draft_vocab_size:
        notes.append(
            f"drafts come from {config.draft_vocab_size} of {config.vocab_size} tokens"
        )
    return notes


def named(*architectures: str) -> Callable[[Config], bool]:
    """Whether a config has one of these architectures."""
    return lambda config: bool(set(architectures) & set(config.architectures))


def stripped(weights: Weights) -> Weights:
    """Names without a leading "model."."""
    return {name.removeprefix("model."): array for name, array in weights.items()}


def taps_of(config: Config, field: str, shift: int) -> dict[str, Any]:
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
