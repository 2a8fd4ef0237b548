"""Decoding without a model: rounds drawn from curves of cost and acceptance.

A case has an oracle, which knows its curves and takes, every round, the width with the
most expected tokens per second. It needs no estimates and no measurements.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dflash_mlx.speculation.controller import Controller, History, Plan
from dflash_mlx.speculation.costs import DRAFTER, PLAIN, Costs, Curve
from dflash_mlx.types import Round

WIDEST = 16
# Rows -> the target's pass, in passes of one row. Flat: bound by memory up to the last
# row. Cliff: from six rows on, a slower kernel. Linear: weights are read again for
# every row. MoE: with more rows, more of them share an expert.
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
        clock, done, last, probe = 0.0, 0, Plan(), None
        while done < tokens:
            plan = controller.plan(done, tokens - done)
            drafts = plan.width - 1
            accepted = self.kept(drafts, done)
            bubble = plan.source == PLAIN and (last.width > 1 or last.probe_rows > 0)
            true = self.seconds(plan, bubble)
            clock += true
            measured = true * self.random.lognormvariate(0.0, self.noise)
            gave = min(accepted + 1, tokens - done)
            if plan.probe_rows:
                judged = plan.probe_rows - 1
                kept = self.kept(judged, done)
                probe = (done + min(kept + 1, judged), judged, kept)
            round = Round([0] * gave, drafts, min(accepted, gave), plan.width)
            controller.record_round(plan, round, done, measured)
            done, last = done + gave, plan
            self.widths.append(plan.width)
            self.gave.append(gave)
            if probe and done > probe[0]:  # the text has come that far
                controller.record_drafts(DRAFTER, "", *probe[1:])
                probe = None
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
