"""The choice of widths, against an oracle that knows every curve (simulator.py)."""

from __future__ import annotations

import math
import random
from itertools import accumulate
from statistics import mean

import pytest

from dflash_mlx.speculation.acceptance import Acceptance, ConfidenceCalibration
from dflash_mlx.speculation.controller import (
    CREDIT,
    Controller,
    Fixed,
    History,
    Plan,
)
from dflash_mlx.speculation.costs import (
    DRAFTER,
    GUESS,
    LOOKUP,
    PLAIN,
    Costs,
    Curve,
    Stopwatch,
    between,
)
from dflash_mlx.types import Round
from tests.equipment.simulator import (
    VERIFY,
    WIDEST,
    Case,
    curve,
)

CHANCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TOKENS = 1500
SEEDS = range(3)


def controller(name: str, off: float = 0.0, seed: int = 0) -> Controller:
    """One whose calibration was off by so much (a standard deviation of logarithms)."""
    draw, known = random.Random(seed), curve(name)
    verify, draft = (
        {width: t * draw.lognormvariate(0.0, off) for width, t in points.items()}
        for points in (known.verify, known.draft)
    )
    return Controller(WIDEST, History(Costs(Curve(verify, draft).times(Case.unit))))


def outcome(name, chance, tokens=TOKENS, off=0.05):
    """Speed of the oracle's and of plain decoding's: means over seeds."""
    of_oracle, of_plain = [], []
    for seed in SEEDS:
        case = Case(name, chance, seed)
        speed = case.run(controller(name, off, seed), tokens)
        of_oracle.append(speed / case.oracle(tokens))
        of_plain.append(speed * case.unit)
    return mean(of_oracle), min(of_plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", VERIFY)
def test_stationary_texts(name):
    """Within 5 % of the oracle on average, never below 0.97 of plain decoding."""
    found = {chance: outcome(name, lambda done, p=chance: p) for chance in CHANCES}
    print(name, found)
    assert mean(of_oracle for of_oracle, _ in found.values()) >= 0.95
    assert min(of_oracle for of_oracle, _ in found.values()) >= 0.92
    assert min(of_plain for _, of_plain in found.values()) >= 0.97


def drifting(done: int) -> float:
    """A chance that rises and falls every 2,500 tokens."""
    return 0.5 + 0.45 * math.sin(done / 400)


def alternating(length: int):
    """Prose and code in turn, each of about `length` tokens."""
    draw, ends, at = random.Random(length), [], 0
    while at < 6000:
        at += draw.randint(length // 2, length * 3 // 2)
        ends.append(at)
    return lambda done: (0.3, 0.92)[sum(end <= done for end in ends) % 2]


@pytest.mark.slow
def test_texts_that_change():
    """Within 5 % of an oracle that sees every change come, on average."""
    texts = (drifting, alternating(400), alternating(200))
    found = {name: [outcome(name, text, 4000) for text in texts] for name in VERIFY}
    print(found)
    of_oracle = {name: mean(o for o, _ in rows) for name, rows in found.items()}
    assert mean(of_oracle.values()) >= 0.95
    assert min(of_oracle.values()) >= 0.92
    assert min(of_plain for rows in found.values() for _, of_plain in rows) >= 0.97


@pytest.mark.parametrize("name", ("flat", "cliff", "moe"))
def test_comes_back_within_tens_of_tokens(name):
    """After 600 tokens that nobody could draft come some that are easy."""
    waits = []
    for seed in range(5):
        case = Case(name, lambda done: 0.0 if done < 600 else 0.97, seed)
        case.run(controller(name), 900)
        done = list(accumulate(case.gave))
        rounds = zip(done, case.widths, strict=True)
        waits.append(next(at - 600 for at, width in rounds if at > 600 and width > 1))
    print(name, waits)
    assert max(waits) <= 80


def test_nothing_is_guessed_where_perfect_drafts_would_not_pay():
    costs = Costs(Curve({1: 1.0, 16: 16.0}, {2: 0.2, 16: 0.2}))
    control = Controller(WIDEST, History(costs))
    for done in range(200):
        plan = control.plan(done, 999)
        assert plan == Plan()
        control.report(plan, Round([0], 0, 0, 1), done, 1.0)


def test_is_the_same_for_the_same_measurements():
    runs = []
    for _ in range(2):
        case = Case("moe", alternating(200), 7)
        case.run(controller("moe", 0.05), 800)
        runs.append(case.widths)
    assert runs[0] == runs[1] and len(set(runs[0])) > 2


def test_without_a_calibration_it_finds_out():
    """A curve far from the guess: never far below plain, and near the best width."""
    for chance, least in ((0.1, 0.93), (0.95, 0.85)):
        case = Case("linear", lambda done, p=chance: p, 1)
        speed = case.run(Controller(WIDEST, History(Costs(GUESS))), 1500)
        assert speed / case.oracle(1500) >= least


def test_what_was_learnt_is_kept_for_the_next_text():
    history = History(Costs(curve("moe")))
    Case("moe", lambda done: 0.1, 1).run(Controller(WIDEST, history), 300)
    again = Controller(WIDEST, history)
    assert again.plan(10, 500).width == 1
    fresh = Controller(WIDEST, History(Costs(curve("moe"))))
    assert fresh.plan(10, 500).width > 1


def test_the_credit_parks_a_drafter_whose_costs_were_wrong():
    """A calibration that says drafting is free: only the rounds tell otherwise."""
    wrong = Curve({1: 1.0, 16: 1.0}, {2: 0.0, 16: 0.0}).times(Case.unit)
    case = Case("linear", lambda done: 0.4, 3)
    speed = case.run(Controller(WIDEST, History(Costs(wrong))), 2000)
    assert speed * case.unit >= 0.94


def test_fixed_widths():
    assert Fixed(8).plan(0, 99) == Plan(8, DRAFTER)
    assert Fixed(8).plan(0, 3) == Plan(3, DRAFTER)
    assert Fixed(1).plan(0, 99) == Fixed(8).plan(0, 1) == Plan()


def test_no_plan_is_wider_than_what_is_left():
    control = controller("flat")
    assert control.plan(0, 99).width == WIDEST
    assert control.plan(0, 5).width <= 5 and control.plan(0, 1) == Plan()


class Said:
    """A lookup with ten tokens to propose."""

    drafts, kind = 10, "long"


def test_lookup_is_taken_where_it_is_worth_more():
    control = controller("moe")
    for _ in range(30):
        control.judge(DRAFTER, "", 15, 0)
        control.judge(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, Said()).source == LOOKUP
    assert control.plan(0, 99).source == PLAIN
    for _ in range(60):
        control.judge(LOOKUP, "long", 10, 0)
    assert control.plan(0, 99, Said()).source == PLAIN


def test_kinds_of_matches_do_not_mix():
    control = controller("flat")
    for _ in range(40):
        control.judge(DRAFTER, "", 15, 0)
        control.judge(LOOKUP, "short", 10, 0)
        control.judge(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, Said()).source == LOOKUP


def test_longer_contexts_have_costs_of_their_own():
    costs = Costs(curve("flat"))
    for _ in range(10):
        costs.see(DRAFTER, 8, 100, 2 * costs.curve.seconds(DRAFTER, 8))
        costs.see(DRAFTER, 8, 9000, 6 * costs.curve.seconds(DRAFTER, 8))
    near, far = (costs.seconds(DRAFTER, 8, rows) for rows in (100, 9000))
    assert near == pytest.approx(2 * costs.curve.seconds(DRAFTER, 8), rel=0.02)
    assert far == pytest.approx(3 * near, rel=0.02)
    # Where nothing was seen yet, the nearest range stands in.
    assert costs.seconds(DRAFTER, 8, 20_000) == far


def test_a_width_tells_of_those_near_it():
    costs = Costs(curve("flat"))
    for _ in range(5):
        costs.see(DRAFTER, 8, 0, 3 * costs.curve.seconds(DRAFTER, 8))
        costs.see(PLAIN, 1, 0, costs.curve.seconds(PLAIN, 1))
    off = [
        costs.seconds(DRAFTER, w, 0) / costs.curve.seconds(DRAFTER, w)
        for w in (2, 5, 7, 8)
    ]
    assert off[0] < off[1] < off[2] < 3.0 and off[0] < 1.8 and off[-1] > 2.6


def test_a_single_slow_round_is_not_believed():
    costs = Costs(curve("flat"))
    usual = costs.curve.seconds(DRAFTER, 8)
    for _ in range(10):
        costs.see(DRAFTER, 8, 0, usual)
    costs.see(DRAFTER, 8, 0, 50 * usual)
    assert costs.seconds(DRAFTER, 8, 0) < 1.2 * usual


def test_stopwatch_leaves_pauses_out():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    now[0] = 2.0
    with watch.paused():
        now[0] = 7.0
    now[0] = 8.0
    assert watch.lap() == 3.0 and watch.lap() == 0.0


def test_trust_is_calibrated_by_what_is_kept():
    confidence = ConfidenceCalibration()
    assert confidence.chances([0.9, 0.1]) == [0.9, 0.1]
    for _ in range(100):
        confidence.count([0.9, 0.9, 0.1], 1)  # a drafter too sure of itself
    high, low = confidence.chances([0.9, 0.1])
    assert high == pytest.approx(0.5, abs=0.05) and low == 0.1


@pytest.mark.parametrize(
    "confidence,rows",
    [
        ([0.99] * 15, 16),
        ([0.99] * 4 + [0.01] * 11, 5),  # six rows cost twice of five
        ([0.01] * 15, 1),
        ([0.2] + [0.99] * 14, 5),
    ],
)
def test_a_block_is_cut_where_its_drafter_loses_trust(confidence, rows):
    assert controller("cliff").trim(16, confidence, 0) == rows


class Hiccup(Case):
    """Its first drafted round takes `factor` times as long: something was compiled."""

    factor, met = 1.0, False

    def seconds(self, plan, bubble):
        slow = plan.width > 1 and not self.met
        self.met = self.met or slow
        return super().seconds(plan, bubble) * (self.factor if slow else 1.0)


@pytest.mark.parametrize("factor", (3.0, 10.0, 50.0))
@pytest.mark.parametrize("name,chance", [("moe", 0.9), ("cliff", 0.8), ("flat", 0.8)])
def test_one_slow_round_at_first_parks_nothing_for_ever(name, chance, factor):
    case, history = Hiccup(name, lambda done: chance, 1), controller(name).history
    case.factor = factor
    case.run(Controller(WIDEST, history), 1000)
    after = Case(name, lambda done: chance, 2)
    speed = after.run(Controller(WIDEST, history), 1000)
    assert speed / after.oracle(1000) >= 0.88


def test_widths_that_were_slow_once_are_tried_again():
    """The machine was busy while they ran; plain rounds show that it is not now."""
    costs = Costs(curve("moe"))
    for _ in range(40):
        costs.see(DRAFTER, 16, 0, 8 * costs.curve.seconds(DRAFTER, 16))
    for _ in range(800):
        costs.see(PLAIN, 1, 0, 1.0)
    usual = costs.curve.seconds(DRAFTER, 16)
    assert costs.seconds(DRAFTER, 16, 0) == pytest.approx(usual, rel=0.1)
    assert costs.seconds(PLAIN, 1, 0) == pytest.approx(1.0, rel=0.01)


def test_a_cheap_width_behind_a_dear_one_is_found():
    costs = Costs(Curve({1: 1.0, 2: 2.9, 4: 2.9, 8: 1.2, 16: 1.3}, {2: 0.1, 16: 0.1}))
    assert Controller(WIDEST, History(costs)).plan(0, 99).width >= 8


def test_no_width_is_free_because_of_noise():
    """Behind the last measured width, where a narrower one came out slower."""
    assert between({1: 1.0, 6: 1.5, 8: 1.2}, 16) == 1.2
    assert between({1: 1.0, 8: 1.7}, 15) == pytest.approx(2.4)
    assert between({2: 0.2, 8: 0.5}, 1) == pytest.approx(0.15)


def drafted(control, rounds, seconds=0.5, context=0):
    """So many rounds of ten tokens; the plans."""
    plans = []
    for _ in range(rounds):
        plan = control.plan(context, 999)
        plans.append(plan)
        tokens = 10 if plan.width > 1 else 1
        told = Round([0] * tokens, plan.width - 1, tokens - 1, plan.width, plan.source)
        control.report(plan, told, context, seconds)
    return plans


def test_plain_decoding_is_measured_however_much_faster_drafting_seems():
    """What it cost once may have been a busy machine's; over short texts, too."""
    history = History(Costs(curve("flat")))
    plans = [p for _ in range(5) for p in drafted(Controller(WIDEST, history), 50)]
    single = [at for at, plan in enumerate(plans) if plan.width == 1]
    assert single == [192, 193, 194] and Controller.MEASURED == 3


def test_plain_decoding_is_measured_soon_where_it_may_win():
    control = Controller(WIDEST, History(Costs(curve("linear"))))
    control.history.costs.use(Curve({1: 1.0, 16: 6.0}, {2: 0.1, 16: 0.1}))
    for _ in range(20):
        control.drafter.count(15, 1)
    control.history.credit, control.hopeful = 3.0, {DRAFTER: True}
    plan = Plan(2, DRAFTER)
    for _ in range(2):
        control.report(plan, Round([0, 0], 1, 1, 2, DRAFTER), 0, 1.5)
    assert control.plan(0, 99) == Plan() and control.to_measure == 3


SINGLE = Round([0], 0, 0, 1)


def test_a_guess_is_paid_for():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    before = control.history.credit
    control.report(Plan(guess=8), SINGLE, 0, 1.12)
    paid = before - control.history.credit
    assert paid == pytest.approx(0.12 - control.SHARE)


def test_plain_rounds_beside_others_do_not_tell_what_one_costs():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    for plan, steady in ((Plan(), True), (Plan(guess=8), True), (Plan(), True)):
        control.report(plan, SINGLE, 0, 9.0, steady=steady)  # the one before differs
    control.report(Plan(), SINGLE, 0, 9.0, steady=False)
    assert not control.costs.knows_plain(0)
    control.report(Plan(), SINGLE, 0, 1.0)
    assert control.costs.knows_plain(0)


def test_a_text_begins_with_little_of_the_one_before():
    history = History(Costs(curve("flat")))
    for _ in range(30):
        history.drafter.count(15, 15)
    history.credit = 5.0
    Controller(WIDEST, history)
    assert history.drafter.tried[0] == pytest.approx(1.0) and history.credit == CREDIT
    history.credit = -1.0
    Controller(WIDEST, history)
    assert history.credit == -1.0  # debts are not forgiven


def test_no_lookup_is_wider_than_what_is_left():
    control = controller("flat")
    for _ in range(30):
        control.judge(DRAFTER, "", 15, 0)
        control.judge(LOOKUP, "long", 10, 10)
    assert control.plan(0, 99, Said()) == Plan(11, LOOKUP)
    assert control.plan(0, 4, Said()) == Plan(4, LOOKUP)


def test_nothing_is_guessed_where_the_end_comes_before_the_verdict():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    for _ in range(40):
        control.judge(DRAFTER, "", 15, 0)
    control.last, control.since_guess, control.history.credit = Plan(), 8, 0.13
    assert control.plan(0, 99).guess == 8
    assert control.plan(0, 8) == Plan()


def test_a_round_that_somebody_else_made_slow_is_not_paid_in_full():
    control = Controller(WIDEST, History(Costs(curve("flat"))))
    control.history.credit, price = 3.0, control.price(Plan(8, DRAFTER), 0)
    told = Round([0, 0], 7, 1, 8, DRAFTER)
    control.report(Plan(8, DRAFTER), told, 0, 90.0)
    assert control.history.credit == pytest.approx(3.0 + 2.0 - 3.0 * price)


def test_a_width_is_left_only_for_one_that_is_clearly_better():
    def after(last, dearer):
        """Blocks of 2 rows that are worth so little more than others, or than none."""
        costs = Costs(Curve({1: 1.0, 2: 1.9 / dearer, 3: 9.0, 16: 99.0}, {2: 0.0}))
        control = Controller(3, History(costs))
        control.drafter.kept, control.drafter.tried = [900.0, 900.0], [1000.0, 1000.0]
        control.last, control.history.credit = last, 9.0
        return control.plan(0, 99)

    assert after(Plan(), 1.02) == Plan() and after(Plan(), 1.05) == Plan(2, DRAFTER)
    assert after(Plan(2, DRAFTER), 1.02) == Plan(2, DRAFTER)
    costs = Costs(Curve({1: 1.0, 2: 1.0, 3: 1.42, 16: 99.0}, {2: 0.0}))
    control = Controller(3, History(costs))
    control.drafter.kept, control.drafter.tried = [1e6, 0.86e6], [1e6, 1e6]
    for last, third in ((2, 1.42), (3, 1.44)):
        costs.use(Curve({1: 1.0, 2: 1.0, 3: third, 16: 99.0}, {2: 0.0}))
        control.last = Plan(last, DRAFTER)
        assert control.plan(0, 99) == Plan(last, DRAFTER)


def test_a_drafted_block_is_cut_by_what_verifying_costs():
    """Its draft pass is paid already: the last rows are worth theirs, or not."""
    costs = Costs(Curve({1: 1.0, 2: 1.6, 4: 1.7}, {2: 9.0}))
    control = Controller(4, History(costs))
    assert control.trim(4, [0.6, 0.9, 0.9], 0) == 4
    assert control.trim(4, [0.1, 0.1, 0.1], 0) == 1


def test_costs_follow_each_round():
    costs = Costs(Curve({1: 1.0, 8: 2.0}, {8: 0.5}))
    assert costs.seconds(DRAFTER, 8, 0) == 2.5
    for _ in range(40):
        costs.see(DRAFTER, 8, 0, 5.0)
    assert costs.seconds(DRAFTER, 8, 0) == pytest.approx(5.0, rel=0.01)
    assert costs.drafting(8, 0) == pytest.approx(1.0, rel=0.01)
    # A longer context begins with what is known, but nobody has measured it.
    costs.see(PLAIN, 1, 0, 1.0)
    costs.see(DRAFTER, 8, 9000, 5.0)
    assert costs.knows_plain(0) and not costs.knows_plain(9000)


def test_curves_are_doubted_where_plain_rounds_are_fastest():
    costs = Costs(Curve({1: 1.0, 8: 2.0}, {8: 0.5}))
    for context, seconds in ((0, 1.0), (9000, 0.5), (99000, 2.0)):
        for _ in range(20):
            costs.see(PLAIN, 1, context, seconds)
    assert costs.plain_off() == pytest.approx(0.5, rel=0.01)


def test_recent_rounds_count_more():
    for first, then, least, most in ((0, 1, 0.5, 1.0), (1, 0, 0.0, 0.5)):
        acceptance = Acceptance()
        for kept in [first] * 60 + [then] * 24:
            acceptance.count(1, kept)
        assert least < acceptance.chances(1)[0] < most
        assert acceptance.tried[0] < 24
