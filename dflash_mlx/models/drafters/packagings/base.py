"""What a packaging is, and the checks that all packagings share.

A packaging is one way of publishing drafters: it recognises its config.json, overrides
the fields to which it gives another meaning, and renames its tensors. A field that
would change what is computed, but that the packaging does not know, is refused by name.
Does not know any packaging, or how a drafter computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ....errors import ConfigError
from ..config import KINDS, OWN_PACKAGING, DFlashConfig
from ..config_file import ConfigFile
from ..fields import SLIDING

Weights = dict[str, mx.array]
# Fields with the meaning that config.py gives them, and notes for people: conventions
# that no field states.
Overrides = tuple[dict[str, Any], list[str]]

SPECULATORS_KEYS = ("speculators_model_type", "speculators_config")
# Fields that change what some drafter computes: refused by packagings that do not know
# them.
MEANINGFUL = set().union(*(kind.field_names() for kind in KINDS)) | {
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
# Fields for training or for the run time of other programs.
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
    """A folder's config.json, as a packaging understood it.

    Args:
        packaging: The packaging's name.
        config: The drafter's numbers.
        notes: The conventions that were followed.
        convert_weights: Gives the file's tensors our names and shapes.
    """

    packaging: str
    config: DFlashConfig
    notes: tuple[str, ...]
    convert_weights: Callable[[Weights], Weights]


@dataclass(frozen=True)
class Packaging:
    """One way of publishing drafters.

    Args:
        name: As printed.
        kind: The class of its configs.
        matches: Whether a config.json is of this packaging.
        override: The fields to which it gives another meaning, and notes.
        convert_weights: Gives the file's tensors our names and shapes.
        own_fields: Fields in MEANINGFUL that `override` reads.
        requires_depth: Whether num_target_layers has to be in the file.
    """

    name: str
    kind: type[DFlashConfig]
    matches: Callable[[ConfigFile], bool]
    override: Callable[[ConfigFile], Overrides] = lambda file: ({}, [])
    convert_weights: Callable[[Weights], Weights] = lambda weights: weights
    own_fields: Collection[str] = ()
    requires_depth: bool = True

    def read(self, file: ConfigFile) -> Reading:
        """Read a config.json of this packaging.

        Raises:
            ConfigError: A field is missing, wrong, or unknown in this packaging.
        """
        known = self.kind.field_names() | {"rope_parameters", "rope_scaling"}
        refuse_unknown_fields(file, known | set(self.own_fields), self.name)
        # null is allowed: the depth is not known.
        if self.requires_depth and "num_target_layers" not in file.root:
            file.get("num_target_layers", int)
        fields, notes = self.override(file)
        if file.root.get("packaging") != OWN_PACKAGING:
            # At the root it describes the target, unless the packaging overrides it.
            fields.setdefault("partial_rotary_factor", None)
        config = self.kind.from_file(file.with_overrides(fields))
        return Reading(
            self.name, config, (*notes, *describe(config)), self.convert_weights
        )


def refuse_unknown_fields(
    file: ConfigFile, known: Collection[str], packaging: str
) -> None:
    """Raise ConfigError for a field that must not be ignored and is not `known`."""
    quantization = file.root.get("quantization_config") or {}
    file.check("quantization_config", isinstance(quantization, dict))
    # mlx-lm writes the field twice.
    if quantization and quantization == file.root.get("quantization"):
        known = {*known, "quantization_config"}
    method = quantization.get("quant_method")
    if method and "quantization_config" not in known:
        raise ConfigError(
            f"{file.path} describes weights quantized with {method}, which this "
            "version cannot read.",
            "Use the drafter's 16-bit repository, and --draft-quantize.",
        )
    if all(value == "silu" for value in file.places_of("hidden_act").values()):
        known = {*known, "hidden_act"}
    # These describe the drafter alone, so an unknown field there is not harmless.
    for place in ("dflash_config", "dspark_config"):
        for field, value in (file.root.get(place) or {}).items():
            if field not in known and field not in HARMLESS and value:
                raise unknown_field(file, field, packaging)
    for field in MEANINGFUL - set(known):
        found = file.places_of(field)
        if any(found.values()) or (found and field in SPECULATORS_KEYS):
            raise unknown_field(file, field, packaging)


def unknown_field(file: ConfigFile, field: str, packaging: str) -> ConfigError:
    """The error for a field that a packaging does not know."""
    return ConfigError(
        f"{file.path} sets {field}, which this version does not support for "
        f"{packaging}.",
        "Choose another drafter, or remove the field if it has no effect.",
    )


def describe(config: DFlashConfig) -> list[str]:
    """The conventions of a config, in words."""
    slot = "predicts" if config.sample_from_anchor else "does not predict"
    drafts = config.block_size - config.first_draft_row
    notes = [
        f"the anchor's slot {slot}: {drafts} drafts from {config.block_size} rows",
        f"taps are the outputs of the 0-based layers {list(config.target_layer_ids)}",
    ]
    sliding = sum(kind == SLIDING for kind in config.layer_types)
    if sliding:
        causal = "symmetric" if config.is_causal is False else "causal"
        notes.append(
            f"{sliding} of {config.num_hidden_layers} layers have a sliding window of "
            f"{config.sliding_window} rows and are {causal} in the block"
        )
    elif config.is_causal:
        notes.append("all layers are causal in the block")
    if config.draft_vocab_size:
        notes.append(
            f"drafts come from {config.draft_vocab_size} of {config.vocab_size} tokens"
        )
    return notes


def has_architecture(*names: str) -> Callable[[ConfigFile], bool]:
    """Whether a config.json has one of these architectures."""
    return lambda file: bool(set(names) & set(file.architectures))


def without_prefix(weights: Weights) -> Weights:
    """The tensors without a leading "model." in their names."""
    return {name.removeprefix("model."): array for name, array in weights.items()}


def shifted_taps(file: ConfigFile, field: str) -> dict[str, Any]:
    """target_layer_ids from a field that counts the embeddings as layer 0.

    Args:
        file: The config.json.
        field: The packaging's field; without it there is nothing to override.

    Raises:
        ConfigError: The file also has a target_layer_ids, with other layers.
    """
    theirs = file.get(field, list, None)
    if theirs is None:
        return {}
    file.check(field, bool(theirs) and all(type(i) is int for i in theirs))
    ours = [tap - 1 for tap in theirs]
    given = file.get("target_layer_ids", list, ours)
    # Some copies repeat the field as target_layer_ids, not shifted.
    if given not in (ours, theirs):
        raise file.conflict(
            f"sets target_layer_ids to {given}, but {field} to {theirs}, which means "
            f"{ours}"
        )
    return {"target_layer_ids": given}
