"""The dtype that a drafter computes in, where the GPU has no native bfloat16.

There float16 is fast, but some drafters overflow in it and draft nonsense, while
float32 is safe and reads twice as much. So float16 is tried, and acceptance decides.
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
# float16 may lose this share of float32's tokens per round.
LOSS = 0.05


def choose_draft_dtype(pair: Pair, tokenizer: Any) -> mx.Dtype:
    """Give a bfloat16 drafter float16 or float32, by what each of them drafts.

    Args:
        pair: Its drafter changes in place.
        tokenizer: Of the target.

    Returns:
        What was chosen; a drafter of another dtype keeps its own.
    """
    drafter = pair.drafter
    if drafter.dtype != mx.bfloat16:
        return drafter.dtype
    weights = tree_flatten(drafter.parameters())
    ids = list(tokenizer.encode(PROMPT))
    found = {}
    for dtype in (mx.float16, mx.float32):
        cast(drafter, weights, dtype)
        options = {"max_tokens": TOKENS, "block_size": pair.drafter.block_size}
        rounds = list(decode(pair, ids, **options))[1:]
        tokens = sum(len(round.tokens) for round in rounds)
        found[dtype] = tokens / max(len(rounds), 1)
    good = found[mx.float16] >= found[mx.float32] * (1 - LOSS)
    cast(drafter, weights, mx.float16 if good else mx.float32)
    return drafter.dtype


def cast(drafter: DFlash, weights: list[tuple[str, mx.array]], dtype: mx.Dtype) -> None:
    """Give `drafter` its floating-point `weights` in another dtype."""
    floats = [(k, v) for k, v in weights if mx.issubdtype(v.dtype, mx.floating)]
    drafter.load_weights([(k, v.astype(dtype)) for k, v in floats], strict=False)
    mx.eval(drafter.parameters())
