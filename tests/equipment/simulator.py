"""Decoding without a model: rounds drawn from curves of cost and acceptance.

A case has an oracle, which knows its curves and takes, every round, the width with the
most expected tokens per second. It needs no estimates and no measurements.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dflash_mlx.decoding.planner import Probe
from dflash_mlx.speculation.controller import Controller, Plan
from dflash_mlx.speculation.costs import DRAFTER, PLAIN, Costs, Curve
from dflash_mlx.speculation.history import History
from dflash_mlx.types import Round

WIDEST = 16
# Rows -> the target's pass, in passes of one row. Flat: bound by memory up to the last
# row. Cliff: from six rows on, a slower kernel. Linear: weights are read again for
# every row. MoE: with more rows, more of them share an expert. CPU: the widened pair on
# two cores.
VERIFY = {
    "flat": {w: 1 + 0.01 * (w - 1) for w in range(1, WIDEST + 1)},
    "cliff": {
        w: 1 + 0.03 * (w - 1) if w < 6 else 2.2 + 0.08 * (w - 6)
        for w in range(1, WIDEST + 1)
    },
    "linear": {w: 1 + 0.7 * (w - 1) for w in range(1, WIDEST + 1)},
    "moe": {w: w**0.6 for w in range(1, WIDEST + 1)},
    "cpu": {w: 1 + 0.107 * (w - 1) for w in range(1, WIDEST + 1)},
}
DRAFT = {"flat": 0.12, "cliff": 0.12, "linear": 0.15, "moe": 0.2, "cpu": 0.33}
# A plain round behind another kind of round waits for the host; in passes of one row.
BUBBLE = 0.03
LATER = 0.985  # a draft's chance over that of the draft before it
PASS_SECONDS = 0.02  # of one row


def curve(name: str) -> Curve:
    """The curve as a calibration without noise measures it, in passes of one row."""
    return Curve(VERIFY[name], {2: DRAFT[name], WIDEST: DRAFT[name]})


def calibrated_controller(name: str, error: float = 0.0, seed: int = 0) -> Controller:
    """A controller with a calibrated curve.

    Args:
        name: Name of the curve.
        error: Standard deviation of the logarithm of the calibration's seconds.
        seed: Of the errors.
    """
    draw, known = random.Random(seed), curve(name)
    verify, draft = (
        {width: t * draw.lognormvariate(0.0, error) for width, t in points.items()}
        for points in (known.verify, known.draft)
    )
    measured = Curve(verify, draft).scaled(PASS_SECONDS)
    return Controller(WIDEST, History(Costs(measured)))


@dataclass
class Case:
    """A text to decode.

    Args:
        costs: Name of the curves.
        chance: Tokens so far -> chance of a first draft.
        seed: Of everything random.
        noise: Standard deviation of the logarithm of a round's seconds.

    Attributes:
        widths: Width of each round.
        gave: Tokens of each round.
    """

    costs: str
    chance: Callable[[int], float]
    seed: int = 0
    noise: float = 0.04
    widths: list[int] = field(default_factory=list)
    gave: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.random = random.Random(self.seed)

    def seconds(self, plan: Plan, bubble: bool) -> float:
        """Seconds of a round, without noise."""
        passes = VERIFY[self.costs][plan.width] + BUBBLE * bubble
        if plan.source == DRAFTER or plan.probe_rows:
            passes += DRAFT[self.costs]
        return passes * PASS_SECONDS

    def kept(self, drafts: int, done: int) -> int:
        """Draw the number of a block's drafts that are kept."""
        chance = self.chance(done)
        for i in range(drafts):
            if self.random.random() >= chance * LATER**i:
                return i
        return drafts

    def run(self, controller: Controller, tokens: int) -> float:
        """Decode `tokens` tokens; return tokens per second."""
        clock, done, last, probe, text = 0.0, 0, Plan(), None, []
        while done < tokens:
            plan = controller.plan(done, tokens - done)
            if plan.probe_rows and probe:
                plan = Plan()  # as in Planner
            drafts = plan.width - 1
            accepted = self.kept(drafts, done)
            bubble = plan.source == PLAIN and (last.width > 1 or last.probe_rows > 0)
            true = self.seconds(plan, bubble)
            clock += true
            measured = true * self.random.lognormvariate(0.0, self.noise)
            gave = min(accepted + 1, tokens - done)
            if plan.probe_rows:
                kept = self.kept(plan.probe_rows - 1, done)
                drafted = [0] * kept + [1] * (plan.probe_rows - 1 - kept)
                probe = Probe(DRAFTER, "", done, drafted)
            elif plan.source == DRAFTER:
                probe = None
            round = Round([0] * gave, drafts, min(accepted, gave), plan.width)
            controller.record_round(plan, round, done, measured)
            done, last = done + gave, plan
            self.widths.append(plan.width)
            self.gave.append(gave)
            text += [0] * gave
            if probe:
                first = probe.equal
                judged, equal = probe.compare(text)
                drafts = len(probe.tokens)
                controller.record_drafts(DRAFTER, "", judged, equal, first, drafts)
                probe = None if probe.ended else probe
        return done / clock

    def best(self, done: int) -> tuple[int, float]:
        """The oracle's width after `done` tokens, and its tokens per second."""
        chance, chain, tokens = self.chance(done), 1.0, 1.0
        best, most = 1, 1.0 / PASS_SECONDS
        for width in range(2, WIDEST + 1):
            chain *= chance * LATER ** (width - 2)
            tokens += chain
            value = tokens / self.seconds(Plan(width, DRAFTER), False)
            if value > most:
                best, most = width, value
        return best, most

    def oracle(self, tokens: int) -> float:
        """The oracle's tokens per second over the whole text."""
        return tokens / sum(1.0 / self.best(done)[1] for done in range(tokens))

    def played_oracle(self, tokens: int) -> float:
        """The oracle's expected seconds for a text of whole rounds, whose last ones
        are cut at its end."""
        seconds = [0.0] * (tokens + 1)  # by tokens that are done
        for done in reversed(range(tokens)):
            width = min(self.best(done)[0], tokens - done)
            plan = Plan(width, DRAFTER) if width > 1 else Plan()
            chance, chain = self.chance(done), 1.0
            seconds[done] = self.seconds(plan, False)
            for kept in range(width):
                more = chance * LATER**kept if kept < width - 1 else 0.0
                seconds[done] += chain * (1.0 - more) * seconds[done + kept + 1]
                chain *= more
        return seconds[0]


def _one_of(*chances: tuple[float, float]):
    """Texts that are equally hard from beginning to end: (chance, weight)."""

    def text(draw: random.Random, at: int):
        chance = draw.choices(*zip(*chances, strict=True))[0]
        return lambda done: chance

    return text


def _turning(draw: random.Random, at: int):
    """Texts that turn at some token from easy to hard, or back."""
    turn = draw.randint(10, 150)
    before, after = draw.choice([(0.92, 0.05), (0.05, 0.92), (0.85, 0.3)])
    return lambda done: before if done < turn else after


def _drifting(draw: random.Random, at: int):
    """Easy texts, then hard ones, then others."""
    chance = 0.9 if at < 80 else 0.08 if at < 140 else 0.6
    return lambda done: chance


# Kind of session -> (random numbers, number of the answer) -> chance by token.
MIXES = {
    "easy": _one_of((0.88, 1.0)),
    "blind": _one_of((0.02, 1.0)),
    "mostly easy": _one_of((0.9, 0.85), (0.08, 0.15)),
    "half": _one_of((0.85, 0.5), (0.1, 0.5)),
    "mostly hard": _one_of((0.9, 0.1), (0.05, 0.9)),
    "turning": _turning,
    "drifting": _drifting,
}


@dataclass(frozen=True)
class Session:
    """What many short answers of one pair took.

    Args:
        seconds: Of each answer.
        oracle: The oracle's expected seconds for each answer.
        tokens: Of each answer.
    """

    seconds: list[float]
    oracle: list[float]
    tokens: list[int]

    def of_oracle(self) -> float:
        """The speed of all answers together, over the oracle's."""
        return sum(self.oracle) / sum(self.seconds)

    def least_of_plain(self, answers: int = 10) -> float:
        """The lowest speed of any `answers` in a row over plain decoding's."""
        ends = range(answers, len(self.tokens) + 1)
        runs = (slice(end - answers, end) for end in ends)
        return min(
            sum(self.tokens[run]) * PASS_SECONDS / sum(self.seconds[run])
            for run in runs
        )


def play_session(name: str, mix: str, seed: int, answers: int = 200) -> Session:
    """Answer many prompts with 20 to 300 tokens each.

    Args:
        name: Name of the curves.
        mix: Kinds of text, a key of MIXES.
        seed: Of everything random.
        answers: The number of answers.
    """
    draw, played = random.Random(f"{name} {mix} {seed}"), Session([], [], [])
    history = calibrated_controller(name, 0.05, seed).history
    for at in range(answers):
        tokens = draw.randint(20, 300)
        case = Case(name, MIXES[mix](draw, at), draw.randrange(2**32))
        speed = case.run(Controller(WIDEST, history), tokens)
        played.seconds.append(tokens / speed)
        played.oracle.append(case.played_oracle(tokens))
        played.tokens.append(tokens)
    return played
