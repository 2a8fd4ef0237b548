"""Widening: the widened pair has the same tokens, acceptance and logits."""

import mlx.core as mx
import pytest

from benchmarks import race
from dflash_mlx import decode
from dflash_mlx.bench.widen import Shape, Widening, shape_of, widen
from dflash_mlx.errors import OptionError

WIDE = Shape(256, 640, 8, 2, 64, 9, 700)


@pytest.mark.slow
def test_widening_changes_neither_tokens_nor_acceptance(tiny_float32):
    pair, tokenizer = tiny_float32
    wide = widen(pair, WIDE)
    assert wide.model.model.embed_tokens.weight.shape == (700, 256)
    assert wide.drafter.taps == (2, 5, 6)
    for prompt in race.PROMPTS[:2]:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        rounds = [
            [
                (r.tokens, r.accepted)
                for r in decode(each, ids, max_tokens=60, block_size=8)
            ]
            for each in (pair, wide)
        ]
        assert rounds[0] == rounds[1]
    logits = [
        each.target.forward(mx.array([ids]), each.target.make_cache())[0]
        for each in (pair, wide)
    ]
    assert mx.allclose(logits[0], logits[1][..., :512], atol=2e-3).item()
    # Ids beyond the small vocabulary are as unlikely as the mask token.
    assert mx.allclose(logits[1][..., 512:], logits[1][..., 3:4]).item()


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 100},
        {"head_dim": 48},
        {"num_attention_heads": 6, "num_key_value_heads": 3},
        {"num_key_value_heads": 3},
    ],
)
def test_shapes_that_cannot_hold_the_small_one(tiny_float32, change):
    small = shape_of(tiny_float32[0].target.config)
    with pytest.raises(OptionError):
        Widening(small, Shape(**vars(WIDE) | change))
