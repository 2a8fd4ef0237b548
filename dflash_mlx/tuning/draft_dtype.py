"""Chooses the dtype that a drafter computes in, if the GPU has no native bfloat16.

float16 is fast on these GPUs, but some drafters overflow in it and draft nonsense;
float32 is safe and reads twice as many bytes. The choice is made by the acceptance of
both on a short prompt. Does not know what a drafter computes.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..decoding.loop import decode
from ..models.drafters.dflash import DFlash
from ..pair import Pair

PROMPT = "Write the numbers from one to thirty in words."
TOKENS = 64
# The share of float32's tokens per round that float16 may lose.
MAX_LOSS = 0.05


def choose_draft_dtype(pair: Pair, tokenizer: Any) -> mx.Dtype:
    """Cast a bfloat16 drafter to float16 or float32, by the tokens per round of each.

    Args:
        pair: Its drafter changes in place.
        tokenizer: The target's tokenizer.

    Returns:
        The drafter's dtype, which is unchanged if it was not bfloat16.
    """
    drafter = pair.drafter
    if drafter.dtype != mx.bfloat16:
        return drafter.dtype
    weights = tree_flatten(drafter.parameters())
    ids = list(tokenizer.encode(PROMPT))
    tokens_per_round = {}
    for dtype in (mx.float16, mx.float32):
        cast(drafter, weights, dtype)
        options = {"max_tokens": TOKENS, "block_size": pair.drafter.block_size}
        rounds = list(decode(pair, ids, **options))[1:]
        tokens = sum(len(round.tokens) for round in rounds)
        tokens_per_round[dtype] = tokens / max(len(rounds), 1)
    half, single = tokens_per_round[mx.float16], tokens_per_round[mx.float32]
    cast(
        drafter, weights, mx.float16 if half >= single * (1 - MAX_LOSS) else mx.float32
    )
    return drafter.dtype


def cast(drafter: DFlash, weights: list[tuple[str, mx.array]], dtype: mx.Dtype) -> None:
    """Load `weights` into a drafter, the floating-point ones in another dtype."""
    floats = [(k, v) for k, v in weights if mx.issubdtype(v.dtype, mx.floating)]
    drafter.load_weights([(k, v.astype(dtype)) for k, v in floats], strict=False)
    mx.eval(drafter.parameters())
