"""Counters of an answer: what ran, and why."""

import pytest

from dflash_mlx.stats import PARKED, UNDRAFTED, Stats
from dflash_mlx.types import Round

PREFILL = Round([1], 0, 0, 0)
SINGLE = Round([2], 0, 0, 1)
BLOCK = Round([3, 4, 5], 7, 2, 8, "drafter")
COPY = Round([3, 4], 3, 1, 4, "lookup")


def told(*rounds, stats=None):
    stats = stats or Stats("plain", UNDRAFTED)
    for round in rounds:
        stats.count(round, 2.0, 1.5)
    return stats


@pytest.mark.parametrize(
    "rounds,engine,reason",
    [
        ([PREFILL], "plain", UNDRAFTED),
        ([PREFILL, SINGLE, SINGLE], "plain", PARKED),
        ([PREFILL, SINGLE, BLOCK], "dflash", ""),
        ([PREFILL, BLOCK, SINGLE], "dflash", ""),
        ([PREFILL, COPY, SINGLE], "lookup", PARKED),
        ([PREFILL, COPY, BLOCK], "dflash", ""),
        ([PREFILL, BLOCK, COPY], "dflash", ""),
    ],
)
def test_no_answer_without_a_drafted_round_is_called_dflash(rounds, engine, reason):
    stats = told(*rounds)
    assert (stats.engine, stats.reason) == (engine, reason)


def test_an_answer_that_was_to_be_plain_says_why():
    stats = told(PREFILL, SINGLE, stats=Stats("plain", "drafting is off"))
    assert (stats.engine, stats.reason) == ("plain", "drafting is off")


def test_numbers():
    stats = told(PREFILL, BLOCK, SINGLE, COPY, BLOCK)
    assert stats.tokens == 10 and stats.rounds == 4
    assert stats.tokens_per_round == 9 / 4
    assert stats.parked_rounds == 1
    assert stats.accepted == 5 and stats.acceptance == [1.0, 2 / 3, 0, 0, 0, 0, 0]
    assert stats.lookup_rounds == stats.lookup_accepted == 1
    assert stats.plain_seconds == 9 * 1.5
    assert stats.speedup == 9 * 1.5 / (4 * 2.0)
    assert stats.as_dict()["speedup"] == stats.speedup
    assert set(stats.seconds_by_width) == {1, 4, 8}


def test_no_speed_is_estimated_where_nobody_measured():
    stats = Stats("plain", UNDRAFTED)
    stats.count(PREFILL, 1.0)
    stats.count(BLOCK, 1.0)
    assert stats.speedup is None


def test_an_answer_that_ends_in_a_block_judges_no_more_than_it_said():
    stats = told(PREFILL, Round([3, 4], 7, 2, 8, "drafter"))
    assert stats.drafted == stats.accepted == 2 and stats.acceptance == [1.0, 1.0]


def test_speed_is_estimated_from_the_rounds_whose_cost_is_known():
    stats = Stats("plain", UNDRAFTED)
    stats.count(PREFILL, 1.0)
    stats.count(BLOCK, 5.0)  # nobody had timed a plain round yet
    for _ in range(3):
        stats.count(BLOCK, 2.0, 1.0)
        assert stats.speedup is None  # so few tell nothing
    stats.count(BLOCK, 2.0, 1.0)
    assert stats.speedup == 3 * 1.0 / 2.0


def test_a_last_row_without_room_for_a_draft_is_not_parked():
    assert told(PREFILL, SINGLE).reason == UNDRAFTED
