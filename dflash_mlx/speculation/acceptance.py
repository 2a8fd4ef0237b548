"""How likely drafts are to be accepted, by their position in the block.

Owns counts in which recent rounds weigh more. Does not know what a pass costs and
chooses no width; see controller.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class ConfidenceCalibration:
    """Corrects a drafter's confidence in its drafts by how often they were accepted.

    Drafts are grouped into bins by confidence. The drafter's own value counts as the
    first few drafts of a bin, so it is used until the bin has data.
    """

    BINS = 8  # of equal width, for confidences from 0 to 1
    HALF_LIFE = 200.0  # later drafts in a bin after which a draft counts half
    PRIOR_WEIGHT = 4.0  # drafts that the drafter's own confidence counts as

    def __init__(self):
        self.kept, self.tried = [0.0] * self.BINS, [0.0] * self.BINS

    def _bin(self, confidence):
        return min(int(confidence * self.BINS), self.BINS - 1)

    def record(self, confidence: Sequence[float], accepted: int) -> None:
        """Add a block of drafts, the first `accepted` of which were kept.

        Args:
            confidence: The drafter's value for each draft, from 0 to 1.
            accepted: Leading drafts that were kept.
        """
        factor = 0.5 ** (1.0 / self.HALF_LIFE)
        for i, value in enumerate(confidence[: accepted + 1]):
            at = self._bin(value)
            self.kept[at] = self.kept[at] * factor + (i < accepted)
            self.tried[at] = self.tried[at] * factor + 1.0

    def chances(self, confidence: Sequence[float]) -> list[float]:
        """The chance that each draft is kept, given that those before it were."""
        return [
            (self.kept[at] + self.PRIOR_WEIGHT * value)
            / (self.tried[at] + self.PRIOR_WEIGHT)
            for value, at in ((value, self._bin(value)) for value in confidence)
        ]


def expected_tokens(chances: Sequence[float]) -> list[float]:
    """Expected tokens of a round with 0, 1, ... drafts, the bonus token included.

    Args:
        chances: The chance of each draft, given that those before it were kept.
    """
    tokens, chain = [1.0], 1.0
    for chance in chances:
        chain *= chance
        tokens.append(tokens[-1] + chain)
    return tokens


class Acceptance:
    """The chance that each draft of a block is kept, given that those before it were.

    Recent rounds count more. A position with few rounds of its own is estimated from
    all positions together. So one fully accepted block raises every position, and a
    wider block is tried where a narrow one is fully accepted.

    Args:
        prior: The chance before any draft was verified.
        weight: Drafts that `prior` counts as.
    """

    HALF_LIFE = 16.0  # rounds after which a round counts half; 6 to 40 do as well
    POOL_WEIGHT = 3.0  # drafts that the estimate from all positions counts as

    def __init__(self, prior: float = 0.85, weight: float = 2.0):
        self.prior, self.weight = prior, weight
        self.kept: list[float] = []
        self.tried: list[float] = []

    def age(self, rounds: float) -> None:
        """Reduce the weight of everything counted, as `rounds` new rounds would."""
        factor = 0.5 ** (rounds / self.HALF_LIFE)
        self.kept = [count * factor for count in self.kept]
        self.tried = [count * factor for count in self.tried]

    def record(self, judged: int, accepted: int) -> None:
        """Add a block in which `judged` drafts could be kept and `accepted` were."""
        self.age(1.0)
        reached = min(judged, accepted + 1)
        more = [0.0] * (reached - len(self.tried))
        self.tried, self.kept = self.tried + more, self.kept + more
        for i in range(reached):
            self.tried[i] += 1.0
            self.kept[i] += i < accepted

    def limit(self, rounds: float) -> None:
        """Let everything counted weigh `rounds` rounds at most."""
        if self.tried and self.tried[0] > rounds:
            self.age(self.HALF_LIFE * math.log2(self.tried[0] / rounds))

    def chances(self, drafts: int) -> list[float]:
        """The chance at each of the first `drafts` positions."""
        pooled = (sum(self.kept) + self.weight * self.prior) / (
            sum(self.tried) + self.weight
        )
        more = [0.0] * (drafts - len(self.tried))
        counts = zip(self.kept + more, self.tried + more, strict=True)
        found = [
            (kept + self.POOL_WEIGHT * pooled) / (tried + self.POOL_WEIGHT)
            for kept, tried in counts
        ]
        return found[:drafts]

    def expected_tokens(self, drafts: int) -> list[float]:
        """Expected tokens of a round with 0, 1, ... `drafts` drafts."""
        return expected_tokens(self.chances(drafts))
