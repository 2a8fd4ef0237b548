"""Chooses the dtype that a drafter computes in, if the GPU has no native bfloat16.

float16 is fast on these GPUs, but some drafters overflow in it and draft nonsense;
float32 is safe and reads twice as many bytes. The choice is made by the acceptance of
both on a short prompt, once per drafter. Does not know what a drafter computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..decoding.loop import decode
from ..hub.registry import numbers_of
from ..models import fingerprint
from ..models.drafters.dflash import DFlash
from ..pair import Pair
from ..store import Store, ignore
from .calibrate import default_store

PROMPT = "Write the numbers from one to thirty in words."
TOKENS = 64
# The share of float32's tokens per round that float16 may lose.
MAX_LOSS = 0.05
DTYPES = {"float16": mx.float16, "float32": mx.float32}
MEASURING = (
    "Measuring the drafter in float16 and float32 once, for some seconds. "
    "--no-calibration skips it."
)


def choose_draft_dtype(
    pair: Pair,
    tokenizer: Any,
    notice: Callable[[str], None] = ignore,
    store: Store | None = None,
    measuring: bool = True,
) -> mx.Dtype:
    """Cast a bfloat16 drafter to float16 or float32, by the tokens per round of each.

    Args:
        pair: Its drafter changes in place.
        tokenizer: The target's tokenizer.
        notice: Called with one line of text if both are measured.
        store: Where the outcome is stored; this user's file of curves by default.
        measuring: Measure if no outcome is stored. Otherwise the dtype is float32,
            which no drafter overflows in.

    Returns:
        The drafter's dtype, which is unchanged if it was not bfloat16.
    """
    drafter = pair.drafter
    if drafter.dtype != mx.bfloat16:
        return drafter.dtype
    store = store or default_store(notice)
    weights, key = tree_flatten(drafter.parameters()), dtype_key(pair)
    entry = store.all().get(key)
    name = entry.get("dtype") if isinstance(entry, dict) else None
    if name in DTYPES:
        cast(drafter, weights, DTYPES[name])
    elif not measuring:
        cast(drafter, weights, mx.float32)
    else:
        notice(MEASURING)
        with pair.wired():
            name, tokens = measure(pair, weights, list(tokenizer.encode(PROMPT)))
        store.put(key, {"dtype": name, "tokens_per_round": tokens})
        cast(drafter, weights, DTYPES[name])
    return drafter.dtype


def dtype_key(pair: Pair) -> str:
    """What the outcome depends on, as text."""
    numbers = ", ".join(str(n) for n in numbers_of(pair.target.config).values())
    drafter = fingerprint.of_drafter(pair.drafter)[:16]
    return f"dtype of drafter {drafter} for target {numbers}"


def measure(
    pair: Pair, weights: list[tuple[str, mx.array]], prompt: list[int]
) -> tuple[str, dict[str, float]]:
    """The name of the better dtype, and the tokens per round in each.

    Args:
        pair: Its drafter is left in one of the two.
        weights: The drafter's, in bfloat16.
        prompt: Token ids.
    """
    found = {}
    for name, dtype in DTYPES.items():
        cast(pair.drafter, weights, dtype)
        options = {"max_tokens": TOKENS, "block_size": pair.drafter.block_size}
        rounds = list(decode(pair, prompt, **options))[1:]
        tokens = sum(len(round.tokens) for round in rounds)
        found[name] = tokens / max(len(rounds), 1)
    half = found["float16"] >= found["float32"] * (1 - MAX_LOSS)
    return "float16" if half else "float32", found


def cast(drafter: DFlash, weights: list[tuple[str, mx.array]], dtype: mx.Dtype) -> None:
    """Load `weights` into a drafter, the floating-point ones in another dtype."""
    floats = [(k, v) for k, v in weights if mx.issubdtype(v.dtype, mx.floating)]
    drafter.load_weights([(k, v.astype(dtype)) for k, v in floats], strict=False)
    mx.eval(drafter.parameters())
