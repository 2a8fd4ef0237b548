"""Decoding without a model: rounds drawn from curves of cost and acceptance.

The oracle of a case knows its curves and takes, every round, the width with the most
expected tokens per second; it needs no guesses and no measurements.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dflash_mlx.speculation.controller import Controller, Plan
from dflash_mlx.speculation.costs import Curve
from dflash_mlx.types import Round

WIDEST = 16
# Rows -> the target's pass, in passes of one row. Flat: bound by memory up to the last
# row. Cliff: six rows and more take another, slower way. Linear: weights are read anew
# for every row. MoE: rows share the experts less the more there are.
VERIFY = {
    "flat": {w: 1 + 0.01 * (w - 1) for w in range(1, WIDEST + 1)},
    "cliff": {
        w: 1 + 0.03 * (w - 1) if w < 6 else 2.2 + 0.08 * (w - 6)
        for w in range(1, WIDEST + 1)
    },
    "linear": {w: 1 + 0.7 * (w - 1) for w in range(1, WIDEST + 1)},
    "moe": {w: w**0.6 for w in range(1, WIDEST + 1)},
}
DRAFT = {"flat": 0.12, "cliff": 0.12, "linear": 0.15, "moe": 0.2}
# The first plain round after another one waits for the host.
BUBBLE = 0.03
LATER = 0.985  # a draft's chance, of that of the draft before it


def curve(name: str) -> Curve:
    """The curve as a calibration without noise finds it."""
    return Curve(VERIFY[name], {2: DRAFT[name], WIDEST: DRAFT[name]})


@dataclass
class Case:
    """A text to decode.

    Args:
        costs: Name of the curves.
        chance: Tokens so far -> chance of a first draft.
        noise: Standard deviation of the logarithm of a round's seconds.
        unit: Seconds of a plain round.
    """

    costs: str
    chance: Callable[[int], float]
    seed: int = 0
    noise: float = 0.04
    unit: float = 0.02
    widths: list[int] = field(default_factory=list)
    gave: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.random = random.Random(self.seed)

    def seconds(self, plan: Plan, bubble: bool) -> float:
        """What a round takes, without noise."""
        price = VERIFY[self.costs][plan.width] + BUBBLE * bubble
        if plan.source == "drafter" or plan.guess:
            price += DRAFT[self.costs]
        return price * self.unit

    def kept(self, drafts: int, done: int) -> int:
        """How many of a block's drafts are kept."""
        chance = self.chance(done)
        for i in range(drafts):
            if self.random.random() >= chance * LATER**i:
                return i
        return drafts

    def run(self, controller: Controller, tokens: int) -> float:
        """Decode so many tokens; tokens a second."""
        clock, done, last, guess = 0.0, 0, Plan(), None
        while done < tokens:
            plan = controller.plan(done, tokens - done)
            drafts = plan.width - 1
            accepted = self.kept(drafts, done)
            bubble = plan.source == "plain" and (last.width > 1 or plan.guess > 0)
            true = self.seconds(plan, bubble)
            clock += true
            measured = true * self.random.lognormvariate(0.0, self.noise)
            gave = min(accepted + 1, tokens - done)
            if plan.guess:
                kept = self.kept(plan.guess - 1, done)
                guess = (done + min(kept + 1, plan.guess - 1), plan.guess - 1, kept)
            round = Round([0] * gave, drafts, min(accepted, gave), plan.width)
            controller.report(plan, round, done, measured)
            done, last = done + gave, plan
            self.widths.append(plan.width)
            self.gave.append(gave)
            if guess and done > guess[0]:  # plain decoding has come that far
                controller.judge("drafter", "", guess[1], guess[2])
                guess = None
        return done / clock

    def best(self, done: int) -> tuple[int, float]:
        """The oracle's width here, and its tokens a second."""
        chance, chain, tokens = self.chance(done), 1.0, 1.0
        best, most = 1, 1.0 / self.unit
        for width in range(2, WIDEST + 1):
            chain *= chance * LATER ** (width - 2)
            tokens += chain
            value = tokens / self.seconds(Plan(width, "drafter"), False)
            if value > most:
                best, most = width, value
        return best, most

    def oracle(self, tokens: int) -> float:
        """The oracle's tokens a second over the whole text."""
        return tokens / sum(1.0 / self.best(done)[1] for done in range(tokens))
