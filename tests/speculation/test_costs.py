"""Seconds of a round: what each measurement tells, and of what."""

from __future__ import annotations

import pytest

from dflash_mlx.speculation.costs import (
    DRAFTER,
    LOOKUP,
    PLAIN,
    Costs,
    Curve,
)

CURVE = Curve({1: 1.0, 16: 2.0}, {2: 0.1, 16: 0.1})


def test_a_width_that_was_measured_goes_by_itself_for_the_most_part():
    """Others lean on it by how near they are, and so does it on them a little."""
    costs = Costs(CURVE)
    for _ in range(40):
        costs.see(PLAIN, 1, 0, 1.0)
        costs.see(LOOKUP, 16, 0, 6.0)
    # Plain rounds make it forget a little.
    assert costs.seconds(LOOKUP, 16, 0) == pytest.approx(6.0, rel=0.06)
    assert costs.seconds(PLAIN, 1, 0) == pytest.approx(1.0, rel=0.02)
    near, far = (
        costs.seconds(LOOKUP, w, 0) / CURVE.seconds(LOOKUP, w) for w in (15, 2)
    )
    assert near > 2.8 and far < 1.2
    # The other proposer's block of that width is as far off.
    assert costs.seconds(DRAFTER, 16, 0) == pytest.approx(3 * 2.1, rel=0.06)


def test_they_are_told_though_another_thread_takes_in_a_round():
    class Emptied(dict):
        def __setitem__(self, key, value):
            """Gone at once."""

    costs = Costs(CURVE)
    costs._found = Emptied()
    assert costs.seconds(PLAIN, 1, 0) == 1.0


def test_a_curve_is_doubted_by_enough_rounds_where_they_are_fastest():
    costs = Costs(CURVE)
    for context, seconds, off in ((0, 1.5, 1.5), (9000, 0.6, 0.6), (99000, 2.0, 0.6)):
        before = costs.plain_off()
        for _ in range(costs.ENOUGH - 1):
            costs.see(PLAIN, 1, context, seconds)
        assert costs.plain_off() == before
        costs.see(PLAIN, 1, context, seconds)
        assert costs.plain_off() == pytest.approx(off)


def test_a_slower_machine_has_the_same_curve():
    """And what nobody measured stays so."""
    slow = Curve(CURVE.verify, CURVE.draft, guessed=True).times(3.0)
    assert slow.guessed and not CURVE.times(3.0).guessed
    assert slow.seconds(DRAFTER, 16) == pytest.approx(6.3)
    assert Costs(slow).plain(0) is None and Costs(CURVE).plain(0) == 1.0
