"""The credit: what drafting may lose, and when a source may be in debt."""

from __future__ import annotations

import pytest

from dflash_mlx.speculation.controller import Controller, Plan
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP, PLAIN, Costs
from dflash_mlx.speculation.history import (
    MOST_PROBE_CREDIT,
    START_CREDIT,
    START_PROBE_CREDIT,
    History,
)
from dflash_mlx.speculation.lookup import Proposal
from dflash_mlx.types import Round
from tests.equipment import simulator
from tests.equipment.simulator import PASS_SECONDS, WIDEST, Case, curve

MATCH = Proposal([0] * 10, "long")


def fresh(history: History | None = None, widest: int = WIDEST) -> Controller:
    """A controller at the beginning of a text, where wide blocks cost little."""
    return Controller(widest, history or History(Costs(curve("flat"))))


def record(control, width, kept, number=1, source=DRAFTER, kind=""):
    """Record `number` blocks of which `kept` drafts were kept, at the usual cost."""
    plan = Plan(width, source)
    round = Round([0] * (kept + 1), width - 1, kept, width, source)
    for _ in range(number):
        seconds = control.costs.curve.seconds(source, width)
        control.record_round(plan, round, 0, seconds, kind)


@pytest.mark.parametrize("chance,least", [(0.97, 0.85), (0.0, 0.2)])
def test_a_draft_pass_that_costs_more_than_the_credit(monkeypatch, chance, least):
    """Probes are made although one costs more than the credit can ever be."""
    monkeypatch.setitem(simulator.DRAFT, "flat", 0.9)
    case = Case("flat", lambda done: chance, 1)
    speed = case.run(fresh(), 1500)
    assert speed / case.oracle(1500) >= least and speed * PASS_SECONDS >= 0.97


def test_gains_may_be_lost_again_up_to_a_few_blocks():
    control = fresh()
    cost, first = control.relative_cost(Plan(8, DRAFTER), 0), control.history.credit
    record(control, 8, 2)
    assert control.history.credit == pytest.approx(first + 3 - cost)
    record(control, 8, 7, number=9)
    assert control.history.credit == pytest.approx(control.MOST_CREDIT * cost)
    record(control, 8, 0, number=9)
    assert control.history.credit == pytest.approx(
        control.MOST_CREDIT * cost - 9 * (cost - 1)
    )


def test_a_new_text_takes_over_what_was_earned():
    history = History(Costs(curve("flat")))
    for kept, debt in ((15, START_CREDIT), (0, -1.0)):
        for _ in range(80):  # texts
            history.acceptance.start_text()
            history.acceptance.record(15, kept)
        # A debt stays, except for a pair whose texts have been paying.
        most = Controller.MOST_CARRIED
        for credit, carried in ((9.0, most), (2.0, 2.0), (-1.0, debt)):
            history.credit = credit
            Controller(WIDEST, history)
            assert history.credit == carried


def test_a_new_pair_may_lose_two_full_blocks_or_little_more_than_a_plain_round():
    for name, widest, credit in (
        ("flat", WIDEST, 2 * (1.15 + 0.12 - 1.0)),
        ("cpu", 8, START_CREDIT),
        ("linear", WIDEST, START_CREDIT),
    ):
        control = Controller(widest, History(Costs(curve(name))))
        assert control.history.credit == pytest.approx(credit)


def test_plain_rounds_restore_the_first_credit_and_no_more():
    control = fresh()
    control.history.credit = control.history.probe_credit = 0.0
    for _ in range(1000):
        control.record_round(Plan(), Round([0], 0, 0, 1), 0, 1.0)
    assert control.history.credit == pytest.approx(START_CREDIT)
    assert control.history.probe_credit == pytest.approx(MOST_PROBE_CREDIT)


def test_a_new_text_may_be_probed():
    history = History(Costs(curve("flat")))
    history.probe_credit = -1.0
    Controller(WIDEST, history)
    assert history.probe_credit == START_PROBE_CREDIT


def test_a_probe_is_paid_for_by_a_credit_of_its_own():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    history = control.history
    history.credit, before = 0.5, history.probe_credit
    control.record_round(Plan(probe_rows=8), Round([0], 0, 0, 1), 0, 1.12)
    paid = before - history.probe_credit
    cost = 0.12 + control.PROBE_WAIT
    assert paid == pytest.approx(cost - control.PROBE_CREDIT_PER_ROUND)
    assert history.credit == 0.5 + control.CREDIT_PER_ROUND


def test_a_very_slow_round_is_not_charged_in_full():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    cost = control.relative_cost(Plan(8, DRAFTER), 0)
    control.history.credit = 3.0
    control.record_round(Plan(8, DRAFTER), Round([0, 0], 7, 1, 8, DRAFTER), 0, 90.0)
    assert control.history.credit == pytest.approx(3.0 + 2.0 - 3.0 * cost)


def test_the_drafter_may_be_in_debt_only_if_its_last_block_was_mostly_kept():
    control = fresh()
    for kept, drafts in ((7, True), (3, False), (4, True), (0, False)):
        record(control, 8, kept)
        control.history.credit = -0.1
        assert (control.plan(0, 99).width > 1) == drafts


def test_lookup_may_be_in_debt_only_if_that_kind_was_mostly_kept():
    control = fresh()
    for _ in range(40):
        control.record_drafts(DRAFTER, "", 15, 0)
    control.history.credit, control.since_probe = -0.1, 0
    control.record_drafts(LOOKUP, "short", 10, 10)
    assert control.plan(0, 99, MATCH) == Plan()
    control.record_drafts(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, MATCH).source == LOOKUP


def test_lookup_beside_a_drafter_of_one_row():
    control = fresh(widest=1)
    record(control, 8, 7, number=300, source=LOOKUP, kind="long")
    control.timing_rounds_left = 0
    assert control.plan(0, 99, MATCH).source == LOOKUP
    assert control.plan(0, 99) == Plan()  # and no probe


def test_one_match_that_is_kept_starts_lookup_again():
    history = History(Costs(curve("cpu")))
    for _ in range(12):  # texts
        control = fresh(history)
        for _ in range(10):
            control.record_drafts(DRAFTER, "", 15, 0)
            control.record_drafts(LOOKUP, "long", 10, 0)
        assert control.plan(0, 99, MATCH).source == PLAIN
    again = fresh(history)
    assert again.plan(0, 99, MATCH).source == PLAIN
    again.record_drafts(LOOKUP, "long", 10, 10)
    assert again.plan(0, 99, MATCH).source == LOOKUP
