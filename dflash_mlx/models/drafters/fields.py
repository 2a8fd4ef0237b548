"""Fields of a drafter's config that need more than a check of their type.

Checks numbers against each other, and reads the two groups of fields that packagings
write in several places: the rope, and which layers see a window.
"""

from __future__ import annotations

from typing import Any

from ...errors import ConfigError
from .checkpoint import Config

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN, GEMMA = "qwen3", "gemma4_text"
GATES = ("per-head", "per-element")
MARKOV = ("vanilla", "gated", "rnn")
NUMBER = int | float
# The ropes that run, and what each needs to be told.
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


def check_numbers(config: Config) -> None:
    """Check the numbers that every kind of drafter has, one by one.

    Raises:
        ConfigError: One is absent, contradictory or of a wrong kind.
    """
    heads = config.get("num_attention_heads", int)
    config.check("num_attention_heads", heads > 0)
    width = config.get("block_size", int)
    config.check("block_size", width > 1)
    taps = config.get("target_layer_ids", list)
    config.check(
        "target_layer_ids", bool(taps) and all(type(tap) is int for tap in taps)
    )
    shared = config.get("num_key_value_heads", int, heads)
    config.check("num_key_value_heads", shared > 0 and heads % shared == 0)
    for name in (
        *("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"),
        *("vocab_size", "rms_norm_eps", "target_hidden_size"),
    ):
        kind = float if name == "rms_norm_eps" else int
        needed = name not in ("head_dim", "target_hidden_size")
        value = config.get(name, kind, *(() if needed else (1,)))
        config.check(name, value > 0)
    vocabulary = config.get("vocab_size", int)
    mask = config.get("mask_token_id", int)
    config.check("mask_token_id", 0 <= mask < vocabulary)
    reduced = config.get("draft_vocab_size", int, vocabulary)
    config.check("draft_vocab_size", 0 < reduced <= vocabulary)
    window = config.get("context_window", int, None)
    config.check("context_window", window is None or window > 0)
    gate = config.get("attention_gate", str, None)
    config.check("attention_gate", gate in (None, *GATES))


def rope_of(config: Config) -> dict[str, Any]:
    """rope_theta, and rope_scaling where more than the base is given.

    Raises:
        ConfigError: There is no base, a kind that is not known, a number that it needs
            is missing, or two places contradict each other.
    """
    name = "rope_parameters"
    rope = config.get(name, dict, None)
    scaling = config.get("rope_scaling", dict, None)
    if rope and scaling and kind_of(rope) != kind_of(scaling):
        raise ConfigError(
            f"{config.path} gives rope_parameters of type {kind_of(rope)!r} and "
            f"rope_scaling of type {kind_of(scaling)!r}.",
            "Remove the wrong one.",
        )
    if not rope:
        rope, name = scaling or {}, "rope_scaling"
    kind = kind_of(rope)
    if not isinstance(kind, str) or kind not in ROPES:
        raise ConfigError(
            f"{config.path} gives {name}.rope_type as {kind!r}.",
            f"Known are {', '.join(ROPES)}.",
        )
    start = rope.get("original_max_position_embeddings", 1)
    config.check(name, isinstance(start, NUMBER) and start > 0)
    for key, wanted in ROPES[kind].items():
        if not isinstance(rope.get(key), wanted):
            raise ConfigError(
                f"{config.path} gives {name}.{key} as {rope.get(key)!r}, which a rope "
                f"of type {kind} needs.",
                "Add it as published.",
            )
    inside, outside = rope.get("rope_theta"), config.get("rope_theta", float, None)
    if inside is None:
        inside = config.get("rope_theta", float)
    if not isinstance(inside, int | float) or inside <= 1:
        raise ConfigError(f"{config.path} gives rope_theta as {inside!r}.")
    if outside not in (None, inside):
        raise ConfigError(
            f"{config.path} gives rope_theta as {inside} in {name} and as {outside} "
            "elsewhere.",
            "Remove the wrong one.",
        )
    scaled = rope if kind != "default" else None
    return {"rope_theta": float(inside), "rope_scaling": scaled}


def kind_of(rope: dict[str, Any]) -> str:
    """The type of a rope's parameters."""
    return rope.get("rope_type") or rope.get("type") or "default"


def attention_of(config: Config, layers: int) -> dict[str, Any]:
    """layer_types, sliding_window and is_causal of a config.

    Raises:
        ConfigError: A layer's type is unknown, there are not as many as layers, or a
            sliding layer has no window.
    """
    kinds = config.get("layer_types", list, [])
    known = all(kind in (FULL, SLIDING) for kind in kinds)
    config.check("layer_types", known and len(kinds) in (0, layers))
    window = config.get("sliding_window", int, None)
    if SLIDING in kinds:
        config.check("sliding_window", window is not None and window > 1)
    return {
        # All layers full is what no list means.
        "layer_types": tuple(kinds) if SLIDING in kinds else (),
        "sliding_window": window if SLIDING in kinds else None,
        "is_causal": config.get("is_causal", bool, None),
        "window_from_anchor": config.get("window_from_anchor", bool, False),
    }
