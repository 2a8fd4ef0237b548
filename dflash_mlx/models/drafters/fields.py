"""Fields of a drafter's config.json that need more than a check of their type.

Owns the checks of numbers against each other, the rope, and the windows of layers. Does
not know packagings.
"""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from .config_file import ConfigFile

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN, GEMMA = "qwen3", "gemma4_text"
GATES = ("per-head", "per-element")
MARKOV = ("vanilla", "gated", "rnn")
NUMBER = int | float
# The supported types of rope, and the parameters that each one requires.
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": NUMBER},
    "dynamic": {"factor": NUMBER},
    "llama3": dict.fromkeys(
        (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
        NUMBER,
    ),
    "yarn": {"factor": NUMBER},
    "longrope": {
        "original_max_position_embeddings": NUMBER,
        "short_factor": list,
        "long_factor": list,
    },
    "proportional": {},
}


def check_numbers(file: ConfigFile) -> None:
    """Check the numbers that every kind of drafter has.

    Raises:
        ConfigError: One is missing, contradictory or out of range.
    """
    heads = file.get("num_attention_heads", int)
    file.check("num_attention_heads", heads > 0)
    width = file.get("block_size", int)
    file.check("block_size", width > 1)
    taps = file.get("target_layer_ids", list)
    file.check("target_layer_ids", bool(taps) and all(type(tap) is int for tap in taps))
    shared = file.get("num_key_value_heads", int, heads)
    file.check("num_key_value_heads", shared > 0 and heads % shared == 0)
    for name in (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("vocab_size", "rms_norm_eps", "target_hidden_size"),
    ):
        kind = float if name == "rms_norm_eps" else int
        needed = name not in ("head_dim", "target_hidden_size")
        value = file.get(name, kind, *(() if needed else (1,)))
        file.check(name, value > 0)
    vocabulary = file.get("vocab_size", int)
    mask = file.get("mask_token_id", int)
    file.check("mask_token_id", 0 <= mask < vocabulary)
    reduced = file.get("draft_vocab_size", int, vocabulary)
    file.check("draft_vocab_size", 0 < reduced <= vocabulary)
    window = file.get("context_window", int, None)
    file.check("context_window", window is None or window > 0)
    gate = file.get("attention_gate", str, None)
    file.check("attention_gate", gate in (None, *GATES))


def read_rope(file: ConfigFile) -> dict[str, Any]:
    """rope_theta, and rope_scaling if the rope has more than a base.

    Raises:
        ConfigError: The base or a required parameter is missing, the type is unknown,
            or two places contradict each other.
    """
    name = "rope_parameters"
    rope = file.get(name, dict, None)
    scaling = file.get("rope_scaling", dict, None)
    if rope and scaling and rope_type(rope) != rope_type(scaling):
        raise file.conflict(
            f"has rope_parameters of type {rope_type(rope)!r} and rope_scaling of type "
            f"{rope_type(scaling)!r}"
        )
    if not rope:
        rope, name = scaling or {}, "rope_scaling"
    kind = rope_type(rope)
    if not isinstance(kind, str) or kind not in ROPES:
        raise ConfigError(
            f"{file.path} has an unknown rope_type in {name}: {kind!r}.",
            f"Supported: {', '.join(ROPES)}.",
        )
    start = rope.get("original_max_position_embeddings", 1)
    file.check(name, isinstance(start, NUMBER) and start > 0)
    for key, wanted in ROPES[kind].items():
        if not isinstance(rope.get(key), wanted):
            raise ConfigError(
                f"{file.path} sets rope_type {kind} in {name} without a valid {key}.",
                "Restore the published value.",
            )
    inside, outside = rope.get("rope_theta"), file.get("rope_theta", float, None)
    if inside is None:
        inside = file.get("rope_theta", float)
    if not isinstance(inside, int | float) or inside <= 1:
        raise file.invalid("rope_theta", inside)
    if outside not in (None, inside):
        raise file.conflict(
            f"has different values for rope_theta: {inside} in {name} and {outside} "
            "elsewhere"
        )
    scaled = rope if kind != "default" else None
    return {"rope_theta": float(inside), "rope_scaling": scaled}


def rope_type(rope: dict[str, Any]) -> str:
    """The type of a rope, under its new or old key."""
    return rope.get("rope_type") or rope.get("type") or "default"


def read_attention(file: ConfigFile, layers: int) -> dict[str, Any]:
    """The fields that say which rows a layer sees.

    Raises:
        ConfigError: A layer's type is unknown, the number of types is not `layers`, or
            a sliding layer has no window.
    """
    kinds = file.get("layer_types", list, [])
    known = all(kind in (FULL, SLIDING) for kind in kinds)
    file.check("layer_types", known and len(kinds) in (0, layers))
    window = file.get("sliding_window", int, None)
    if SLIDING in kinds:
        file.check("sliding_window", window is not None and window > 1)
    return {
        # Without a list, all layers are full.
        "layer_types": tuple(kinds) if SLIDING in kinds else (),
        "sliding_window": window if SLIDING in kinds else None,
        "is_causal": file.get("is_causal", bool, None),
        "window_from_anchor": file.get("window_from_anchor", bool, False),
    }
