"""A width controller that draws its plans at random."""

from __future__ import annotations

import random

from dflash_mlx.speculation.controller import Plan
from dflash_mlx.speculation.costs import DRAFTER
from tests.equipment.tiny import some_prompt

SEEDS = (1, 2, 4)


class RandomController:
    """Draws a width and a source for every round, and keeps what is recorded."""

    seed, made, uses_confidence = 0, [], True

    def __init__(self, widest, history):
        self.widest, self.draw = widest, random.Random(self.seed)
        self.rounds, self.drafts, self.confidences = [], [], []
        self.steady, self.caller_seconds = [], []
        RandomController.made.append(self)

    def plan(self, context, left, match=None):
        """The same plan for the same arguments: the loop may call it twice a round."""
        self.draw.seed(f"{self.seed} {context} {left}")
        offers = [Plan()] + [Plan(probe_rows=6)] * 3 * (left > 6)
        offers += [Plan(w, DRAFTER) for w in range(2, min(self.widest, left) + 1)]
        if match is not None:
            most = min(len(match.tokens) + 1, left)
            offers += [Plan(w, match.source) for w in range(2, most + 1)] * 2
        return self.draw.choice(offers)

    def record_round(
        self, plan, round, context, seconds, kind="", steady=True, caller_seconds=0.0
    ):
        self.rounds.append((plan, round, context, seconds, kind))
        self.steady.append(steady)
        self.caller_seconds.append(caller_seconds)

    def cancel_timing(self):
        """Does nothing: no plain rounds are planned for their time."""

    def trim(self, rows, confidence, context):
        return self.draw.randint(1, rows)

    def record_confidence(self, confidence, accepted):
        self.confidences.append((confidence, accepted))

    def record_drafts(self, source, kind, judged, accepted, first=0, drafts=0):
        """Parts of one block are joined."""
        if first:
            at = max(i for i, record in enumerate(self.drafts) if record[0] == source)
            assert self.drafts.pop(at) == (source, kind, first, first)
        self.drafts.append((source, kind, first + judged, first + accepted))


def repeating(length, seed=5):
    """A prompt that repeats tokens, so that lookup finds matches."""
    words = some_prompt(12, seed)
    return (words + some_prompt(5, seed + 1) + words)[:length]
