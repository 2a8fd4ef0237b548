"""The contenders on this machine: their clocks, options and warm-ups."""

import time
from types import SimpleNamespace

import mlx.core as mx
import pytest

from dflash_mlx import Pair
from dflash_mlx.bench.benchmark import Settings, make_grid, warm_up_requests
from dflash_mlx.bench.contenders import (
    OwnEngine,
    Request,
    StockMlxLm,
    time_answer,
    tokenizer_for,
)
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.types import Sampling


def test_each_context_is_warmed_up_once(tiny):
    contenders = [OwnEngine(*tiny, "plain", speculate=False), OwnEngine(*tiny, "auto")]
    settings = Settings((0.0, 0.5), (0, 200), max_tokens=40, warmup=3)
    prompts = [Prompt("chat", "one"), Prompt("chat", "two")]
    grid = make_grid(contenders, prompts, settings, tiny[1], None)
    warm_ups = warm_up_requests(grid, settings)
    assert [(run.context, run.contender) for run, _ in warm_ups] == [
        (0, "plain"),
        (0, "auto"),
        (200, "plain"),
        (200, "auto"),
    ]
    assert {request.max_tokens for _, request in warm_ups} == {3}


def test_speed_counts_from_the_first_token():
    def responses():
        time.sleep(0.1)
        for token in (4, 5, 6):
            yield SimpleNamespace(token=token)
            time.sleep(0.01)

    answer = time_answer(responses())
    assert answer.tokens == [4, 5, 6] and answer.count == 3
    assert answer.first_token >= 0.1 and 0.03 <= answer.seconds < answer.first_token


def test_the_peak_does_not_include_earlier_memory():
    big = mx.zeros((4_000_000,))
    mx.eval(big)
    del big
    mx.clear_cache()
    held = mx.get_active_memory()
    answer = time_answer(iter([SimpleNamespace(token=1)]))
    assert answer.peak < held + 8_000_000


def test_an_endless_answer_does_not_change_the_tokenizer(tiny):
    end_ids = set(tiny[1].eos_token_ids)
    request = Request([1], "x", 4, Sampling(), endless=True)
    assert tokenizer_for(request, tiny[1]).eos_token_ids == set()
    assert end_ids and set(tiny[1].eos_token_ids) == end_ids


def test_stock_mlx_lm_is_seeded_and_may_differ_when_sampling(tiny):
    stock = StockMlxLm(*tiny)
    assert stock.must_match_plain(0.0) and not stock.must_match_plain(0.5)
    request = Request([5, 6, 7], "x", 8, Sampling(temp=1.5, seed=4), endless=True)
    assert stock.answer(request).tokens == stock.answer(request).tokens


@pytest.mark.slow
def test_our_engine_uses_the_block_size_of_its_contender(tiny):
    pair, tokenizer = tiny
    request = Request([5, 6, 7], "x", 12, Sampling(), endless=True)
    contenders = [("plain", None, False), ("8", 8, True), ("4", 4, True)]
    widest = []
    for name, size, speculate in contenders:
        stats = OwnEngine(pair, tokenizer, name, size, speculate).answer(request).stats
        widest.append(max(stats.seconds_by_width))
    assert widest == [1, 8, 4]
    alone = Pair.of(pair.model, None, pair.target.config)
    assert OwnEngine(alone, tokenizer, "8", 8).answer(request).stats.engine == "plain"
