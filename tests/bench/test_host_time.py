"""The benchmark of what a round takes beside its models."""

import random

import pytest

from benchmarks.host_time import MODES, free_pair, measure
from dflash_mlx import decode


@pytest.mark.slow
def test_models_that_cost_nothing_give_the_known_text():
    draw = random.Random(0)
    text = [draw.randrange(10, 500) for _ in range(200)]
    pair, tokenizer = free_pair(text)
    tokenizer.eos_token_ids = set()
    for mode, options in MODES.items():
        pair.drafter.rounds = 0
        rounds = list(decode(pair, text[:50], max_tokens=100, **options))
        assert [t for round in rounds for t in round.tokens] == text[50:150]
        if mode == "fixed 8":
            assert [round.accepted for round in rounds[1:5]] == [7, 3, 0, 2]
        seconds, count = measure(pair, tokenizer, text[:50], 100, options)
        assert seconds > 0 and (count == 99) == (mode == "plain")
