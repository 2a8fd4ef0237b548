"""Seconds of a round: what a timed round changes, at its width and at others."""

from __future__ import annotations

import pytest

from dflash_mlx.speculation.costs import (
    DRAFTER,
    LOOKUP,
    PLAIN,
    Costs,
    Curve,
    Stopwatch,
    interpolate,
)
from tests.equipment.simulator import curve

CURVE = Curve({1: 1.0, 16: 2.0}, {2: 0.1, 16: 0.1})


def test_a_timed_width_depends_little_on_others():
    """Others follow it the more the nearer they are, and it follows them a little."""
    costs = Costs(CURVE)
    for _ in range(40):
        costs.record(PLAIN, 1, 0, 1.0)
        costs.record(LOOKUP, 16, 0, 6.0)
    # Each plain round removes a little of the difference.
    assert costs.seconds(LOOKUP, 16, 0) == pytest.approx(6.0, rel=0.06)
    assert costs.seconds(PLAIN, 1, 0) == pytest.approx(1.0, rel=0.02)
    near, far = (
        costs.seconds(LOOKUP, w, 0) / CURVE.seconds(LOOKUP, w) for w in (15, 2)
    )
    assert near > 2.8 and far < 1.2
    # A block of that width from the drafter is as far off.
    assert costs.seconds(DRAFTER, 16, 0) == pytest.approx(3 * 2.1, rel=0.06)


def test_seconds_are_known_although_another_thread_clears_the_memo():
    class Cleared(dict):
        def __setitem__(self, key, value):
            """Keep nothing."""

    costs = Costs(CURVE)
    costs._memo = Cleared()
    assert costs.seconds(PLAIN, 1, 0) == 1.0


def test_the_curve_is_checked_by_enough_rounds_where_they_are_fastest():
    costs = Costs(CURVE)
    for context, seconds, off in ((0, 1.5, 1.5), (9000, 0.6, 0.6), (99000, 2.0, 0.6)):
        before = costs.plain_ratio()
        for _ in range(costs.ENOUGH_ROUNDS - 1):
            costs.record(PLAIN, 1, context, seconds)
        assert costs.plain_ratio() == before
        costs.record(PLAIN, 1, context, seconds)
        assert costs.plain_ratio() == pytest.approx(off)


def test_the_curve_is_checked_by_the_fastest_of_several_contexts():
    costs = Costs(Curve({1: 1.0, 8: 2.0}, {8: 0.5}))
    for context, seconds in ((0, 1.0), (9000, 0.5), (99000, 2.0)):
        for _ in range(20):
            costs.record(PLAIN, 1, context, seconds)
    assert costs.plain_ratio() == pytest.approx(0.5, rel=0.01)


def test_a_scaled_curve():
    """An assumed one stays assumed."""
    slow = Curve(CURVE.verify, CURVE.draft, assumed=True).scaled(3.0)
    assert slow.assumed and not CURVE.scaled(3.0).assumed
    assert slow.seconds(DRAFTER, 16) == pytest.approx(6.3)
    assert Costs(slow).plain_seconds(0) is None
    assert Costs(CURVE).plain_seconds(0) == 1.0


def test_longer_contexts_have_costs_of_their_own():
    costs = Costs(curve("flat"))
    for _ in range(10):
        costs.record(DRAFTER, 8, 100, 2 * costs.curve.seconds(DRAFTER, 8))
        costs.record(DRAFTER, 8, 9000, 6 * costs.curve.seconds(DRAFTER, 8))
    near, far = (costs.seconds(DRAFTER, 8, rows) for rows in (100, 9000))
    assert near == pytest.approx(2 * costs.curve.seconds(DRAFTER, 8), rel=0.02)
    assert far == pytest.approx(3 * near, rel=0.02)
    # A range without rounds of its own uses the nearest range.
    assert costs.seconds(DRAFTER, 8, 20_000) == far


def test_a_timed_width_corrects_those_near_it():
    costs = Costs(curve("flat"))
    for _ in range(5):
        costs.record(DRAFTER, 8, 0, 3 * costs.curve.seconds(DRAFTER, 8))
        costs.record(PLAIN, 1, 0, costs.curve.seconds(PLAIN, 1))
    off = [
        costs.seconds(DRAFTER, w, 0) / costs.curve.seconds(DRAFTER, w)
        for w in (2, 5, 7, 8)
    ]
    assert off[0] < off[1] < off[2] < 3.0 and off[0] < 1.8 and off[-1] > 2.6


def test_one_slow_round_changes_little():
    costs = Costs(curve("flat"))
    usual = costs.curve.seconds(DRAFTER, 8)
    for _ in range(10):
        costs.record(DRAFTER, 8, 0, usual)
    costs.record(DRAFTER, 8, 0, 50 * usual)
    assert costs.seconds(DRAFTER, 8, 0) < 1.2 * usual


def test_widths_that_were_slow_once_recover():
    """They were timed on a busy machine; plain rounds show that it no longer is."""
    costs = Costs(curve("moe"))
    for _ in range(40):
        costs.record(DRAFTER, 16, 0, 8 * costs.curve.seconds(DRAFTER, 16))
    for _ in range(800):
        costs.record(PLAIN, 1, 0, 1.0)
    usual = costs.curve.seconds(DRAFTER, 16)
    assert costs.seconds(DRAFTER, 16, 0) == pytest.approx(usual, rel=0.1)
    assert costs.seconds(PLAIN, 1, 0) == pytest.approx(1.0, rel=0.01)


def test_no_width_is_free_because_of_noise():
    """Beyond the last measured width, where a narrower one was slower."""
    assert interpolate({1: 1.0, 6: 1.5, 8: 1.2}, 16) == 1.2
    assert interpolate({1: 1.0, 8: 1.7}, 15) == pytest.approx(2.4)
    assert interpolate({2: 0.2, 8: 0.5}, 1) == pytest.approx(0.15)


def test_costs_follow_each_round():
    costs = Costs(Curve({1: 1.0, 8: 2.0}, {8: 0.5}))
    assert costs.seconds(DRAFTER, 8, 0) == 2.5
    for _ in range(40):
        costs.record(DRAFTER, 8, 0, 5.0)
    assert costs.seconds(DRAFTER, 8, 0) == pytest.approx(5.0, rel=0.01)
    assert costs.draft_seconds(8, 0) == pytest.approx(1.0, rel=0.01)
    # A longer context starts from the shorter one's corrections, not timed itself.
    costs.record(PLAIN, 1, 0, 1.0)
    costs.record(DRAFTER, 8, 9000, 5.0)
    assert costs.plain_was_timed(0) and not costs.plain_was_timed(9000)


def test_the_stopwatch_leaves_pauses_out():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    now[0] = 2.0
    with watch.paused():
        now[0] = 7.0
    now[0] = 8.0
    assert watch.lap() == 3.0 and watch.lap() == 0.0
