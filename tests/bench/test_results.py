"""Rows of a benchmark from made-up answers: what is counted, and what is not mixed."""

from __future__ import annotations

import time
from types import SimpleNamespace

import mlx.core as mx
import pytest

from dflash_mlx import Pair, load
from dflash_mlx.bench import results
from dflash_mlx.bench.benchmark import (
    Run,
    Settings,
    compare,
    first_difference,
    plan,
    warm_ups,
)
from dflash_mlx.bench.contenders import (
    Answer,
    Ours,
    Request,
    Stock,
    measured,
    reading,
)
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.stats import Stats
from dflash_mlx.types import Round, Sampling

WORDS = list(range(40))
LOOP = [7] * 80


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def run_of(name, speeds=(10,), words=WORDS, temp=0, context=0, **told):
    """A contender's run with made-up speeds, one a repeat, on a prompt of its own."""
    stats = told.pop("stats", [None] * len(speeds))
    answers = [
        Answer(list(words), len(words), 0.2, (len(words) - 1) / speed, 5, each)
        for speed, each in zip(speeds, stats, strict=True)
    ]
    request = Request([1], "x", 40, Sampling())
    compared = told.pop("compared", True)
    return Run(
        Prompt("chat", "x"), name, temp, context, request, compared, answers, **told
    )


def counters(*rounds):
    stats = Stats()
    for round in rounds:
        stats.count(round, 0.1)
    return stats


def test_temperatures_and_contexts_do_not_mix():
    grid = [(0, 0), (0, 900), (0.6, 0), (0.6, 900)]
    runs = [
        run_of(name, (speed * (1 + i),), temp=temp, context=context)
        for i, (temp, context) in enumerate(grid)
        for name, speed in (("plain", 10), ("8", 20))
    ]
    rows = results.rows_of(runs)
    assert [(row.temp, row.context) for row in rows[1::2]] == grid
    assert [row.tokens_per_second.median for row in rows[1::2]] == pytest.approx(
        [20, 40, 60, 80]
    )
    assert [row.of_plain for row in rows[1::2]] == pytest.approx([2.0] * 4)


def test_only_blocks_of_a_fixed_width_are_fixed_widths():
    speeds = {"plain": 50, "auto": 12, "4": 10, "mlx-lm": 40, "server": 60}
    rows = results.rows_of([run_of(name, (speed,)) for name, speed in speeds.items()])
    held = {row.contender: row.of_best_width for row in rows}
    assert held == {name: None for name in speeds} | {"auto": pytest.approx(1.2)}


def test_rounds_of_all_answers_are_counted():
    block, copy = Round([1] * 3, 3, 2, 4, "drafter"), Round([1], 7, 0, 8, "lookup")
    single = Round([1], 0, 0, 1)
    stats = [counters(block, block, single), counters(block, copy), counters(copy)]
    row = results.rows_of([run_of("auto", (1, 2, 3), stats=stats)])[0]
    assert row.rounds_by_width == {1: 1, 4: 3, 8: 2} and row.lookup_rounds == 2
    assert row.engine == "dflash auto" and row.drafted_at[0] == 5


def test_every_prompt_is_looked_at():
    """Not the first one only, and one may be long enough where others are not."""
    runs = [
        run_of("8", words=WORDS),
        run_of("8", words=LOOP),
        run_of("8", words=WORDS[: results.SHORT]),
        run_of("8", words=WORDS[: results.SHORT - 1], compared=False),
    ]
    row = results.rows_of(runs)[0]
    assert (row.prompts, row.loops, row.short) == (4, 1, 1) and not row.compared
    assert results.rows_of(runs[:3])[0].compared


def test_the_worst_class_of_each_contender():
    runs = [run_of("plain"), run_of("auto", (12,)), run_of("8", (5,))]
    rows = results.rows_of(runs)
    assert results.worst_row(rows, "auto").of_plain == pytest.approx(1.2)
    assert results.worst_row(rows, "8").of_plain == pytest.approx(0.5)
    assert results.worst_row(rows, "plain") is None


def test_drift_is_that_of_plain_from_first_to_last():
    runs = [run_of("plain", (10, 99, 12)), run_of("8", (10, 10, 1))]
    assert results.drift(runs) == pytest.approx(0.2)


def test_a_text_that_ends_early_differs_where_it_ends(tiny):
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], []) is None
    # There is no margin behind plain decoding's last word.
    cell = [run_of("plain"), run_of("8", words=[*WORDS, 41])]
    compare(cell, tiny[0])
    assert cell[0].difference is None
    assert (cell[1].difference.at, cell[1].difference.margin) == (len(WORDS), None)


def test_each_context_is_warmed_up_once(tiny):
    rivals = [Ours(*tiny, "plain", speculate=False), Ours(*tiny, "auto")]
    settings = Settings((0.0, 0.5), (0, 200), max_tokens=40, warmup=3)
    prompts = [Prompt("chat", "one"), Prompt("chat", "two")]
    warm = warm_ups(plan(rivals, prompts, settings, tiny[1], None), settings)
    assert [(run.context, run.contender) for run, _ in warm] == [
        (0, "plain"),
        (0, "auto"),
        (200, "plain"),
        (200, "auto"),
    ]
    assert {request.max_tokens for _, request in warm} == {3}


def test_the_clock_of_speed_starts_with_the_first_token():
    def responses():
        time.sleep(0.1)
        for token in (4, 5, 6):
            yield SimpleNamespace(token=token)
            time.sleep(0.01)

    answer = measured(responses())
    assert answer.tokens == [4, 5, 6] and answer.count == 3
    assert answer.first >= 0.1 and 0.03 <= answer.seconds < answer.first


def test_the_peak_is_that_of_the_answer():
    big = mx.zeros((4_000_000,))
    mx.eval(big)
    del big
    mx.clear_cache()
    held = mx.get_active_memory()
    answer = measured(iter([SimpleNamespace(token=1)]))
    assert answer.peak < held + 8_000_000


def test_no_tokenizer_is_changed_for_an_endless_text(tiny):
    ends = set(tiny[1].eos_token_ids)
    request = Request([1], "x", 4, Sampling(), endless=True)
    assert reading(tiny[1], request).eos_token_ids == set()
    assert ends and set(tiny[1].eos_token_ids) == ends


def test_stock_mlx_lm_is_seeded_and_need_not_follow(tiny):
    stock = Stock(*tiny)
    assert stock.follows(0.0) and not stock.follows(0.5)
    request = Request([5, 6, 7], "x", 8, Sampling(temp=1.5, seed=4), endless=True)
    assert stock.answer(request).tokens == stock.answer(request).tokens


def test_ours_is_asked_as_it_is_called(tiny):
    pair, tokenizer = tiny
    request = Request([5, 6, 7], "x", 12, Sampling(), endless=True)
    asked = [("plain", None, False), ("8", 8, True), ("4", 4, True)]
    widest = []
    for name, size, speculate in asked:
        stats = Ours(pair, tokenizer, name, size, speculate).answer(request).stats
        widest.append(max(stats.seconds_by_width))
    assert widest == [1, 8, 4]
    alone = Pair.of(pair.model, None, pair.target.config)
    assert Ours(alone, tokenizer, "8", 8).answer(request).stats.engine == "plain"
