"""What drafting may lose, who may owe, and what is watched all the same."""

from __future__ import annotations

import pytest

from dflash_mlx.speculation.controller import (
    CREDIT,
    Controller,
    History,
    Plan,
)
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP, Costs
from dflash_mlx.types import Round
from tests.equipment import simulator
from tests.equipment.simulator import WIDEST, Case, curve


class Said:
    """A lookup with ten tokens to propose."""

    drafts, kind = 10, "long"


def fresh(history: History | None = None, widest: int = WIDEST) -> Controller:
    """One at the beginning of a text, where wide blocks cost little."""
    return Controller(widest, history or History(Costs(curve("flat"))))


def report(control, width, kept, number=1, source=DRAFTER, kind=""):
    """Blocks of which so many drafts were kept, in the seconds that were expected."""
    plan = Plan(width, source)
    round = Round([0] * (kept + 1), width - 1, kept, width, source)
    for _ in range(number):
        seconds = control.costs.curve.seconds(source, width)
        control.report(plan, round, 0, seconds, kind)


@pytest.mark.parametrize("chance,least", [(0.97, 0.85), (0.0, 0.2)])
def test_a_drafter_dearer_than_the_credit_is_watched(monkeypatch, chance, least):
    """A guess costs more than may be lost at once, and is made for all that."""
    monkeypatch.setitem(simulator.DRAFT, "flat", 0.9)
    case = Case("flat", lambda done: chance, 1)
    speed = case.run(fresh(), 1500)
    assert speed / case.oracle(1500) >= least and speed * case.unit >= 0.97


def test_what_a_block_gains_may_be_lost_again():
    """Up to a few of its like; and a new text begins with no more than any."""
    control = fresh()
    price = control.price(Plan(8, DRAFTER), 0)
    report(control, 8, 2)
    assert control.history.credit == pytest.approx(CREDIT + 3 - price)
    report(control, 8, 7, number=9)
    assert control.history.credit == pytest.approx(control.MOST * price)
    report(control, 8, 0, number=9)
    assert control.history.credit == pytest.approx(
        control.MOST * price - 9 * (price - 1)
    )


def test_only_who_kept_most_of_the_last_block_may_owe():
    """The match that was found beside it says nothing of the drafter."""
    control = fresh()
    for kept, owes in ((7, True), (3, False), (4, True), (0, False)):
        report(control, 8, kept)
        control.history.credit = -0.1
        assert (control.plan(0, 99).width > 1) == owes


def test_a_match_may_owe_where_its_kind_was_kept():
    control = fresh()
    for _ in range(40):
        control.judge(DRAFTER, "", 15, 0)
    control.history.credit = -0.1
    control.judge(LOOKUP, "short", 10, 10)
    assert control.plan(0, 99, Said()) == Plan()
    control.judge(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, Said()).source == LOOKUP


def test_lookup_beside_a_drafter_of_one_row():
    control = fresh(widest=1)
    report(control, 8, 7, number=300, source=LOOKUP, kind="long")
    control.to_measure = 0
    assert control.plan(0, 99, Said()).source == LOOKUP


def test_earlier_texts_say_little_of_a_lookup():
    control = fresh()
    for _ in range(100):
        control.judge(DRAFTER, "", 15, 0)
        control.judge(LOOKUP, "long", 10, 0)
    assert control.plan(0, 99, Said()).source == "plain"
    again = fresh(control.history)
    assert control.history.lookup["long"].tried[0] == pytest.approx(control.MEMORY)
    again.judge(LOOKUP, "long", 10, 10)
    assert again.plan(0, 99, Said()).source == LOOKUP
