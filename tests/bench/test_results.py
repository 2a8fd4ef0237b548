"""The figures of a benchmark, from answers with known speeds and texts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dflash_mlx.bench import results
from dflash_mlx.bench.benchmark import Run, find_differences, first_difference
from dflash_mlx.bench.contenders import Answer, Request
from dflash_mlx.bench.suites import Prompt
from dflash_mlx.stats import Stats
from dflash_mlx.terminal.benchmark_table import remarks, summary
from dflash_mlx.types import Round, Sampling

TOKENS = list(range(40))
LOOP = [7] * 80


def run_of(
    name,
    speeds=(10,),
    tokens=TOKENS,
    *,
    kind="chat",
    prompt="x",
    temp=0,
    context=0,
    stats=None,
    compared=True,
):
    """A contender's run with the given speeds, one per repeat."""
    answers = [
        Answer(list(tokens), len(tokens), 0.2, (len(tokens) - 1) / speed, 5, each)
        for speed, each in zip(speeds, stats or [None] * len(speeds), strict=True)
    ]
    request = Request([1], prompt, 40, Sampling())
    return Run(Prompt(kind, prompt), name, temp, context, request, compared, answers)


def counters(*rounds):
    stats = Stats()
    for round in rounds:
        stats.count(round, 0.1)
    return stats


def test_medians_ratios_and_the_worst_prompt():
    speeds = {
        ("chat", "a"): {"plain": (10, 20, 30), "auto": (10, 10, 40), "4": (40,) * 3},
        ("chat", "b"): {"plain": (10,) * 3, "auto": (30, 40, 20), "4": (20,) * 3},
        ("code", "c"): {"plain": (10,) * 3, "auto": (11,) * 3, "4": (5,) * 3},
    }
    runs = [
        run_of(name, of_contender, kind=kind, prompt=prompt)
        for (kind, prompt), by_name in speeds.items()
        for name, of_contender in by_name.items()
    ]
    found = {(row.kind, row.contender): row for row in results.rows_of(runs)}
    chat = found["chat", "auto"]
    # The medians over prompts of the three repeats are 20, 25 and 30.
    speed = chat.tokens_per_second
    assert (speed.least, speed.median, speed.most) == pytest.approx((20, 25, 30))
    assert (speed.low, speed.high) == pytest.approx((22.5, 27.5))
    # The ratios are 10 / 20 and 30 / 10.
    assert chat.of_plain == pytest.approx(1.75)
    assert (chat.worst, chat.worst_prompt) == (pytest.approx(0.5), "a")
    assert chat.of_best_width == pytest.approx((10 / 40 + 30 / 20) / 2)
    assert found["code", "auto"].of_best_width == pytest.approx(2.2)
    assert summary(list(found.values())) == [
        "The slowest class with --block-sizes auto is code: 1.10 times plain decoding, "
        "without a drafted round.",
        "The slowest class with --block-sizes 4 is code: 0.50 times plain decoding, "
        "without a drafted round.",
        "The slowest class of auto against the best fixed block size is "
        "chat: 0.88 times its speed.",
        "No round was drafted, so all figures show plain decoding.",
    ]


def test_the_worst_prompt_and_the_highest_peak_need_not_be_the_last():
    runs = [
        run_of(name, (speed,), prompt=prompt)
        for prompt, speeds in (("a", (10, 20)), ("b", (10, 5)), ("c", (10, 30)))
        for name, speed in zip(("plain", "auto"), speeds, strict=True)
    ]
    runs[3].answers[0] = replace(runs[3].answers[0], peak=9)
    auto = results.rows_of(runs)[1]
    assert (auto.worst, auto.worst_prompt) == (pytest.approx(0.5), "b")
    assert auto.peak == 9 and auto.of_plain == pytest.approx(2.0)


def test_auto_is_compared_with_the_best_of_the_fixed_widths():
    speeds = {"plain": 10, "auto": 24, "2": 20, "4": 30, "8": 5}
    runs = [run_of(name, (speed,)) for name, speed in speeds.items()]
    auto = results.rows_of(runs)[1]
    assert auto.of_best_width == pytest.approx(24 / 30)


def test_a_single_token_has_no_speed():
    assert Answer([1], 1, 0.1, 0.0).speed is None
    runs = [run_of(name, tokens=[1]) for name in ("plain", "auto")]
    row = results.rows_of(runs)[1]
    assert row.tokens_per_second is None and row.of_plain is None and row.short == 1
    assert "1 of 1 too short" in remarks(row)


@pytest.mark.parametrize(
    ("tokens", "repeats"),
    [
        (list(range(100)), False),
        ([7] * 64, True),
        ([7] * 63, False),
        (list(range(100)) + [1, 2, 3, 4, 5, 6, 7, 8] * 8, True),
        (list(range(100)) + [1, 2, 3, 4, 5, 6, 7, 8, 9] * 8, False),
        (list(range(20)) * 6, True),
        ([*range(100), *[5] * 60, 1, 2], False),
    ],
)
def test_texts_that_repeat_themselves(tokens, repeats):
    assert results.repeats_itself(tokens) == repeats


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


def test_only_contenders_with_a_block_size_are_fixed_widths():
    speeds = {"plain": 50, "auto": 12, "4": 10, "mlx-lm": 40, "server": 60}
    rows = results.rows_of([run_of(name, (speed,)) for name, speed in speeds.items()])
    ratios = {row.contender: row.of_best_width for row in rows}
    assert ratios == {name: None for name in speeds} | {"auto": pytest.approx(1.2)}


def test_rounds_of_all_answers_are_counted():
    block, copy = Round([1] * 3, 3, 2, 4, "drafter"), Round([1], 7, 0, 8, "lookup")
    single = Round([1], 0, 0, 1)
    stats = [counters(block, block, single), counters(block, copy), counters(copy)]
    row = results.rows_of([run_of("auto", (1, 2, 3), stats=stats)])[0]
    assert row.rounds_by_width == {1: 1, 4: 3, 8: 2} and row.lookup_rounds == 2
    assert row.engine == "dflash auto" and row.drafted_at[0] == 5


def test_every_prompt_of_a_class_counts():
    runs = [
        run_of("8", tokens=TOKENS),
        run_of("8", tokens=LOOP),
        run_of("8", tokens=TOKENS[: results.SHORT]),
        run_of("8", tokens=TOKENS[: results.SHORT - 1], compared=False),
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


def test_drift_compares_plain_decoding_in_the_first_and_last_repeat():
    runs = [run_of("plain", (10, 99, 12)), run_of("8", (10, 10, 1))]
    assert results.drift(runs) == pytest.approx(0.2)


def test_drift_of_more_than_ten_percent_is_a_warning():
    steady = [run_of("plain", (10, 30, 10.5)), run_of("4", (10, 1))]
    assert results.drift(steady) == pytest.approx(0.05)
    assert results.drift_warning(results.drift(steady)) == []
    slower = [run_of("plain", (10, 9, 8))]
    assert "-20%" in results.drift_warning(results.drift(slower))[0]
    assert results.drift([run_of("plain", (10,))]) is None
    assert results.drift_warning(None) == []


def test_a_text_that_ends_early_differs_where_it_ends(tiny):
    assert first_difference([1, 2, 3], [1, 2]) == 2
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], []) is None
    # After plain decoding's last token there is no margin.
    cell = [run_of("plain"), run_of("8", tokens=[*TOKENS, 41])]
    find_differences(cell, tiny[0])
    assert cell[0].difference is None
    assert (cell[1].difference.at, cell[1].difference.margin) == (len(TOKENS), None)
