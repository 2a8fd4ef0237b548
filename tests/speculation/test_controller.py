"""The choice of a round's width and of the source of its drafts."""

from __future__ import annotations

import pytest

from dflash_mlx.speculation.acceptance import LEVELS
from dflash_mlx.speculation.controller import (
    Controller,
    Plan,
)
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP, PLAIN, Costs, Curve
from dflash_mlx.speculation.fixed_width import FixedWidth
from dflash_mlx.speculation.history import History
from dflash_mlx.speculation.lookup import Proposal
from dflash_mlx.types import Round
from tests.equipment.simulator import WIDEST, calibrated_controller, curve

MATCH = Proposal([0] * 10, "long")
SINGLE = Round([0], 0, 0, 1)


def test_fixed_widths():
    assert FixedWidth(8).plan(0, 99) == Plan(8, DRAFTER)
    assert FixedWidth(8).plan(0, 3) == Plan(3, DRAFTER)
    assert FixedWidth(1).plan(0, 99) == FixedWidth(8).plan(0, 1) == Plan()


def test_no_plan_is_wider_than_what_is_left():
    control = calibrated_controller("flat")
    assert control.plan(0, 99).width == WIDEST
    assert control.plan(0, 5).width <= 5 and control.plan(0, 1) == Plan()


def test_lookup_is_used_where_its_drafts_are_kept():
    control = calibrated_controller("moe")
    for _ in range(30):
        control.record_drafts(DRAFTER, "", 15, 0)
        control.record_drafts(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, MATCH).source == LOOKUP
    assert control.plan(0, 99).source == PLAIN
    for _ in range(60):
        control.record_drafts(LOOKUP, "long", 10, 0)
    assert control.plan(0, 99, MATCH).source == PLAIN


def test_each_kind_of_match_has_its_own_acceptance():
    control = calibrated_controller("flat")
    for _ in range(40):
        control.record_drafts(DRAFTER, "", 15, 0)
        control.record_drafts(LOOKUP, "short", 10, 0)
        control.record_drafts(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, MATCH).source == LOOKUP


def test_no_lookup_is_wider_than_what_is_left():
    control = calibrated_controller("flat")
    for _ in range(30):
        control.record_drafts(DRAFTER, "", 15, 0)
        control.record_drafts(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, MATCH) == Plan(11, LOOKUP)
    assert control.plan(0, 4, MATCH) == Plan(4, LOOKUP)


def test_a_cheap_width_behind_an_expensive_one_is_found():
    costs = Costs(Curve({1: 1.0, 2: 2.9, 4: 2.9, 8: 1.2, 16: 1.3}, {2: 0.1, 16: 0.1}))
    assert Controller(WIDEST, History(costs)).plan(0, 99).width >= 8


def test_the_width_changes_only_for_a_clearly_better_one():
    def plan_after(last, advantage):
        """The plan if blocks of 2 rows are that much faster than plain decoding."""
        costs = Costs(Curve({1: 1.0, 2: 1.88 / advantage, 3: 9.0, 16: 99.0}, {2: 0.0}))
        control = Controller(3, History(costs))
        control.acceptance.belief = 1.0 * (LEVELS == 0.88)
        control.last, control.history.credit = last, 9.0
        return control.plan(0, 99)

    assert plan_after(Plan(), 1.02) == Plan()
    assert plan_after(Plan(), 1.05) == Plan(2, DRAFTER)
    assert plan_after(Plan(2, DRAFTER), 1.02) == Plan(2, DRAFTER)
    costs = Costs(Curve({1: 1.0, 2: 1.0, 3: 1.46, 16: 99.0}, {2: 0.0}))
    control = Controller(3, History(costs))
    control.acceptance.belief = 1.0 * (max(LEVELS) == LEVELS)
    for last, third in ((2, 1.46), (3, 1.50)):
        costs.reset(Curve({1: 1.0, 2: 1.0, 3: third, 16: 99.0}, {2: 0.0}))
        control.last = Plan(last, DRAFTER)
        assert control.plan(0, 99) == Plan(last, DRAFTER)


@pytest.mark.parametrize(
    "confidence,rows",
    [
        ([0.99] * 15, 16),
        ([0.99] * 4 + [0.01] * 11, 5),  # six rows cost twice what five cost
        ([0.01] * 15, 1),
        ([0.2] + [0.99] * 14, 5),
    ],
)
def test_a_block_is_trimmed_where_confidence_falls(confidence, rows):
    assert calibrated_controller("cliff").trim(16, confidence, 0) == rows


def test_a_block_is_trimmed_by_the_cost_of_verifying_only():
    """Its draft pass is paid already."""
    costs = Costs(Curve({1: 1.0, 2: 1.6, 4: 1.7}, {2: 9.0}))
    control = Controller(4, History(costs))
    assert control.trim(4, [0.6, 0.9, 0.9], 0) == 4
    assert control.trim(4, [0.1, 0.1, 0.1], 0) == 1


def test_no_probe_where_fully_accepted_blocks_would_be_slower():
    costs = Costs(Curve({1: 1.0, 16: 16.0}, {2: 0.2, 16: 0.2}))
    control = Controller(WIDEST, History(costs))
    for done in range(200):
        plan = control.plan(done, 999)
        assert plan == Plan()
        control.record_round(plan, SINGLE, done, 1.0)


def test_no_probe_where_the_text_ends_before_its_result():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    for _ in range(40):
        control.record_drafts(DRAFTER, "", 15, 0)
    control.last, control.since_probe, control.history.credit = Plan(), 8, 0.13
    assert control.plan(0, 99).probe_rows == 8
    assert control.plan(0, 8) == Plan()


def drafted(control, rounds, seconds=0.5, context=0):
    """Record rounds of ten tokens each; return their plans."""
    plans = []
    for _ in range(rounds):
        plan = control.plan(context, 999)
        plans.append(plan)
        tokens = 10 if plan.width > 1 else 1
        round = Round([0] * tokens, plan.width - 1, tokens - 1, plan.width, plan.source)
        control.record_round(plan, round, context, seconds)
    return plans


def test_plain_rounds_are_timed_again_after_192_drafted_ones():
    """The machine may have been busy before. Rounds of short texts add up."""
    history = History(Costs(curve("flat")))
    plans = [p for _ in range(5) for p in drafted(Controller(WIDEST, history), 50)]
    single = [at for at, plan in enumerate(plans) if plan.width == 1]
    assert single == [192, 193, 194] and Controller.TIMING_ROUNDS == 3


def test_plain_rounds_are_timed_soon_where_they_may_be_faster():
    control = Controller(WIDEST, History(Costs(curve("linear"))))
    control.history.costs.reset(Curve({1: 1.0, 16: 6.0}, {2: 0.1, 16: 0.1}))
    for _ in range(20):
        control.acceptance.record(15, 1)
    control.history.credit, control.mostly_kept = 3.0, {DRAFTER: True}
    plan = Plan(2, DRAFTER)
    for _ in range(2):
        control.record_round(plan, Round([0, 0], 1, 1, 2, DRAFTER), 0, 1.5)
    assert control.plan(0, 99) == Plan() and control.timing_rounds_left == 3


def test_plain_rounds_next_to_others_are_not_timed():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    plans = (Plan(), True), (Plan(probe_rows=8), True), (Plan(), True)
    for plan, steady in plans:  # each follows another kind of round
        control.record_round(plan, SINGLE, 0, 9.0, steady=steady)
    control.record_round(Plan(), SINGLE, 0, 9.0, steady=False)
    assert not control.costs.plain_was_timed(0)
    control.record_round(Plan(), SINGLE, 0, 1.0)
    assert control.costs.plain_was_timed(0)
