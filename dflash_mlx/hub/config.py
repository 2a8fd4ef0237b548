"""A target's config.json: read and checked, and how long a text the model supports.

Owns the checks of fields that mlx-lm would fail on without naming the file. Does not
know drafters or weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from . import registry

# Names in config.json that differ from those of registry.numbers_of.
CONFIG_NAMES = {"num_layers": "num_hidden_layers"}
FIELD_TYPES = {"model_type": (str, "a string")}  # the others are integers
# Where families write the longest text, and how positions are scaled.
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
ROPES = ("rope_scaling", "rope_parameters")
# Scalings of which max_position_embeddings is the length before them, if the field
# `original_max_position_embeddings` does not say it.
UNSCALED = ("linear", "dynamic", "yarn", "deepseek_yarn", "telechat3-yarn")
FACTOR_NEEDED = (*UNSCALED, "llama3")
# What tells a drafter's config.json from a target's.
DRAFTER_FIELDS = ("dflash_config", "dspark_config", "speculators_config")
DRAFTER_CLASSES = ("DFlash", "DSpark")
HINT = "Check that it is the folder of a language model."


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.json of a target's folder.

    Sizes may be missing from it: mlx-lm knows defaults, and other names for some.

    Raises:
        ConfigError: It is not a JSON object, has no model_type, or one of the fields
            that identify a target (registry.numbers_of) or scale its positions has a
            wrong type.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file} is not a JSON object.")
    text = config.get("text_config")
    if not isinstance(text, dict | None):
        raise ConfigError(f"text_config in {file} must be an object, but is {text!r}.")
    for name, value in registry.numbers_of(config).items():
        field = CONFIG_NAMES.get(name, name)
        kind, wanted = FIELD_TYPES.get(field, (int, "an integer"))
        if value is not None and type(value) is not kind:
            raise ConfigError(f"{field} in {file} must be {wanted}, but is {value!r}.")
    if config.get("model_type") is None:
        raise ConfigError(f"{file} has no model_type.", HINT)
    check_positions(text or config, file)
    check_target(config, folder)
    return config


def check_target(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError if a config.json is a drafter's."""
    classes = config.get("architectures") or []
    named = any(kind in str(each) for each in classes for kind in DRAFTER_CLASSES)
    if named or any(field in config for field in DRAFTER_FIELDS):
        raise ConfigError(
            f"{folder} holds a drafter, not a model that it drafts for.",
            "Name the drafter with --draft, and its target with --model.",
        )


def check_positions(text: Mapping[str, Any], file: Path) -> None:
    """Raise ConfigError if a field that scales or limits positions cannot be used.

    Args:
        text: The fields of the text model.
        file: Its config.json.
    """
    for name in LENGTHS:
        if type(text.get(name)) not in (int, type(None)):
            raise ConfigError(
                f"{name} in {file} must be an integer, but is {text[name]!r}."
            )
    for name in ROPES:
        if not isinstance(text.get(name), dict | None):
            raise ConfigError(
                f"{name} in {file} must be an object, but is {text[name]!r}."
            )
    for name, rope in scalings(text):
        kind, factor = kind_of(rope), rope.get("factor")
        if kind in FACTOR_NEEDED and not isinstance(factor, int | float):
            raise ConfigError(
                f"{name} in {file} has the type {kind}, which needs a number as "
                f"factor, but factor is {factor!r}.",
                "Add it as the model's page says, or remove the field.",
            )


def scalings(text: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The fields that scale positions, with their names.

    There is one of a model, or one of each kind of its layers.
    """
    for name in ROPES:
        field = text.get(name) or {}
        nested = {k: v for k, v in field.items() if isinstance(v, dict)}
        if not nested:
            yield name, field
        for kind, rope in nested.items():
            yield f"{name}.{kind}", rope


def kind_of(rope: Mapping[str, Any]) -> str:
    """The kind of a scaling of positions."""
    return rope.get("type") or rope.get("rope_type") or "default"


def context_length(config: Mapping[str, Any]) -> int | None:
    """The longest text that a model supports, in tokens; None if its config does not
    say.

    A scaling of positions extends the length that the model was trained for by its
    factor. Where `original_max_position_embeddings` names that length, the config's
    longest text is usually the extended one already.

    Args:
        config: The target's config.json.
    """
    text = config.get("text_config") or config
    longest = next((text[name] for name in LENGTHS if text.get(name)), None)
    if longest is None:
        return None
    lengths = [longest]
    for _, rope in scalings(text):
        field = "original_max_position_embeddings"
        original = rope.get(field) or text.get(field)
        if original is None and kind_of(rope) in UNSCALED:
            original = longest
        if original and kind_of(rope) != "default":
            lengths.append(int(original * (rope.get("factor") or 1)))
    return max(lengths)
