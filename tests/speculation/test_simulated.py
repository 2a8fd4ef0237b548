"""The controller in simulated texts, compared with an oracle that knows every curve."""

from __future__ import annotations

import math
import random
from itertools import accumulate
from statistics import mean

import pytest

from dflash_mlx.speculation.controller import Controller
from dflash_mlx.speculation.costs import ASSUMED, Costs, Curve
from dflash_mlx.speculation.history import History
from tests.equipment.simulator import (
    MIXES,
    PASS_SECONDS,
    VERIFY,
    WIDEST,
    Case,
    calibrated_controller,
    curve,
    play_session,
)

CHANCES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
TOKENS = 1500
SEEDS = range(3)
FULL = pytest.mark.full("speculation")


def relative_speeds(name, chance, tokens=TOKENS, error=0.05):
    """Speed over the oracle's (mean of seeds) and over plain decoding's (least)."""
    of_oracle, of_plain = [], []
    for seed in SEEDS:
        case = Case(name, chance, seed)
        speed = case.run(calibrated_controller(name, error, seed), tokens)
        of_oracle.append(speed / case.oracle(tokens))
        of_plain.append(speed * PASS_SECONDS)
    return mean(of_oracle), min(of_plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name == "cliff" else pytest.param(name, marks=FULL) for name in VERIFY],
)
def test_constant_acceptance(name):
    """Within 5 % of the oracle on average, never below 0.97 of plain decoding."""
    found = {
        chance: relative_speeds(name, lambda done, p=chance: p) for chance in CHANCES
    }
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
@FULL
def test_changing_acceptance():
    """Within 5 % of an oracle that knows every change in advance, on average."""
    texts = (drifting, alternating(400), alternating(200))
    found = {
        name: [relative_speeds(name, text, 4000) for text in texts] for name in VERIFY
    }
    print(found)
    of_oracle = {name: mean(o for o, _ in rows) for name, rows in found.items()}
    assert mean(of_oracle.values()) >= 0.95
    assert min(of_oracle.values()) >= 0.92
    assert min(of_plain for rows in found.values() for _, of_plain in rows) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", ("flat", "cliff", "moe"))
def test_drafting_starts_again_within_80_tokens(name):
    """600 tokens in which every draft is wrong are followed by easy ones."""
    waits = []
    for seed in range(5):
        case = Case(name, lambda done: 0.0 if done < 600 else 0.97, seed)
        case.run(calibrated_controller(name), 900)
        done = list(accumulate(case.gave))
        rounds = zip(done, case.widths, strict=True)
        waits.append(next(at - 600 for at, width in rounds if at > 600 and width > 1))
    print(name, waits)
    assert max(waits) <= 80


def test_equal_measurements_give_equal_widths():
    runs = []
    for _ in range(2):
        case = Case("moe", alternating(200), 7)
        case.run(calibrated_controller("moe", 0.05), 800)
        runs.append(case.widths)
    assert runs[0] == runs[1] and len(set(runs[0])) > 2


def test_a_wrong_assumed_curve_is_corrected():
    """Never far below plain decoding, and near the best width."""
    for chance, least in ((0.1, 0.93), (0.95, 0.85)):
        case = Case("linear", lambda done, p=chance: p, 1)
        speed = case.run(Controller(WIDEST, History(Costs(ASSUMED))), 1500)
        assert speed / case.oracle(1500) >= least


def test_a_new_text_starts_from_earlier_acceptance():
    for chance, widths in ((0.1, (1,)), (0.95, (8, 16))):
        history = History(Costs(curve("moe")))
        for seed in range(3):
            case = Case("moe", lambda done, p=chance: p, seed)
            case.run(Controller(WIDEST, history), 300)
        again = Controller(WIDEST, history)
        assert widths[0] <= again.plan(10, 500).width <= widths[-1]
    fresh = Controller(WIDEST, History(Costs(curve("moe"))))
    assert fresh.plan(10, 500).probe_rows > 1


@pytest.mark.full("speculation")
@pytest.mark.parametrize("name", VERIFY)
def test_sessions_of_short_answers(name):
    """Within 4 % of an oracle that knows every text, except where texts turn, and
    never below 0.97 of plain decoding over ten answers in a row."""
    found = {mix: play_session(name, mix, 0) for mix in MIXES}
    of_oracle = {mix: session.of_oracle() for mix, session in found.items()}
    print(name, of_oracle, {m: s.least_of_plain() for m, s in found.items()})
    assert of_oracle.pop("turning") >= 0.90
    assert mean(of_oracle.values()) >= 0.96 and min(of_oracle.values()) >= 0.94
    assert min(session.least_of_plain() for session in found.values()) >= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("mix", ("blind", "half"))
def test_a_session_of_short_answers(mix):
    """As above, of two mixes."""
    session = play_session("cpu", mix, 0)
    assert session.of_oracle() >= 0.94 and session.least_of_plain() >= 0.97


@pytest.mark.parametrize("tokens", (64, 200))
@pytest.mark.parametrize("name", VERIFY)
def test_the_first_answers_of_a_blind_drafter(name, tokens):
    """At 0.96 of plain decoding or more, each of them; 0.97 on average."""
    speeds = []
    for seed in range(8):
        history = calibrated_controller(name, 0.05, seed).history
        for _ in range(3):
            case = Case(name, lambda done: 0.01, seed)
            speed = case.run(Controller(WIDEST, history), tokens)
            speeds.append(speed * PASS_SECONDS)
    assert min(speeds) >= 0.96 and mean(speeds) >= 0.97


def test_the_credit_parks_a_drafter_with_a_wrong_calibration():
    """A calibration in which drafting is free; only the rounds show its cost."""
    wrong = Curve({1: 1.0, 16: 1.0}, {2: 0.0, 16: 0.0}).scaled(PASS_SECONDS)
    case = Case("linear", lambda done: 0.4, 3)
    speed = case.run(Controller(WIDEST, History(Costs(wrong))), 2000)
    assert speed * PASS_SECONDS >= 0.94


class SlowFirstBlock(Case):
    """The first drafted round takes `factor` times as long, as if kernels compiled."""

    factor, met = 1.0, False

    def seconds(self, plan, bubble):
        slow = plan.width > 1 and not self.met
        self.met = self.met or slow
        return super().seconds(plan, bubble) * (self.factor if slow else 1.0)


@pytest.mark.parametrize("factor", (3.0, 10.0, 50.0))
@pytest.mark.parametrize("name,chance", [("moe", 0.9), ("cliff", 0.8), ("flat", 0.8)])
def test_a_slow_first_round_does_not_park_for_long(name, chance, factor):
    case = SlowFirstBlock(name, lambda done: chance, 1)
    history = calibrated_controller(name).history
    case.factor = factor
    case.run(Controller(WIDEST, history), 1000)
    after = Case(name, lambda done: chance, 2)
    speed = after.run(Controller(WIDEST, history), 1000)
    assert speed / after.oracle(1000) >= 0.88
