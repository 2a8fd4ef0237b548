"""The counters of an answer, and its engine."""

import pytest

from dflash_mlx.stats import PARKED, UNDRAFTED, Stats
from dflash_mlx.types import Round

PREFILL = Round([1], 0, 0, 0)
SINGLE = Round([2], 0, 0, 1)
BLOCK = Round([3, 4, 5], 7, 2, 8, "drafter")
COPY = Round([3, 4], 3, 1, 4, "lookup")


def counted(*rounds, stats=None):
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
def test_the_engine_is_named_after_the_rounds(rounds, engine, reason):
    stats = counted(*rounds)
    assert (stats.engine, stats.reason) == (engine, reason)


def test_the_reason_of_a_plain_answer_stays():
    stats = counted(PREFILL, SINGLE, stats=Stats("plain", "drafting is off"))
    assert (stats.engine, stats.reason) == ("plain", "drafting is off")


def test_counters_and_what_is_derived():
    stats = counted(PREFILL, BLOCK, SINGLE, COPY, BLOCK)
    assert stats.tokens == 10 and stats.rounds == 4
    assert stats.tokens_per_round == 9 / 4
    assert stats.parked_rounds == 1
    assert stats.accepted == 5 and stats.acceptance == [1.0, 2 / 3, 0, 0, 0, 0, 0]
    assert stats.lookup_rounds == stats.lookup_accepted == 1
    assert stats.plain_seconds == 9 * 1.5
    assert stats.speedup == 9 * 1.5 / (4 * 2.0)
    assert stats.as_dict()["speedup"] == stats.speedup
    assert set(stats.seconds_by_width) == {1, 4, 8}


def test_no_speedup_without_the_cost_of_a_plain_round():
    stats = Stats("plain", UNDRAFTED)
    stats.count(PREFILL, 1.0)
    stats.count(BLOCK, 1.0)
    assert stats.speedup is None


def test_drafts_behind_the_end_of_the_text_are_not_counted():
    stats = counted(PREFILL, Round([3, 4], 7, 2, 8, "drafter"))
    assert stats.drafted == stats.accepted == 2 and stats.acceptance == [1.0, 1.0]


def test_the_speedup_is_of_the_rounds_that_can_be_compared():
    stats = Stats("plain", UNDRAFTED)
    stats.count(PREFILL, 1.0)
    stats.count(BLOCK, 5.0)  # before any plain round was timed
    for _ in range(3):
        stats.count(BLOCK, 2.0, 1.0)
        assert stats.speedup is None  # too few rounds
    stats.count(BLOCK, 2.0, 1.0)
    assert stats.speedup == 3 * 1.0 / 2.0


def test_one_row_without_room_for_a_draft_is_not_parked():
    assert counted(PREFILL, SINGLE).reason == UNDRAFTED


def test_rounds_of_forced_tokens_are_neither_the_drafters_nor_lookups():
    stats = Stats("plain", UNDRAFTED)
    stats.count(Round([1], 0, 0, 0), 1.0)
    stats.count(Round([1, 2, 3], 2, 2, 3, "grammar"), 1.0)
    assert (stats.engine, stats.lookup_rounds, stats.accepted) == ("plain", 0, 2)
    assert stats.tokens_per_round == 3.0
