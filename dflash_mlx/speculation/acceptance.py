"""How likely drafts are to be kept, by their place in the block.

Owns counts that forget. Knows no costs and chooses nothing: width.py does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


class ConfidenceCalibration:
    """How often drafts are kept that a drafter trusts so much: its word, calibrated.

    Recent drafts count more. Until there are some of a kind, its word is taken.
    """

    BINS = 8
    HALF_LIFE = 200.0  # drafts of a kind until one counts half
    LEAN = 4.0  # drafts that the drafter's own word is worth

    def __init__(self):
        self.kept, self.tried = [0.0] * self.BINS, [0.0] * self.BINS

    def _bin(self, confidence):
        return min(int(confidence * self.BINS), self.BINS - 1)

    def count(self, confidence: Sequence[float], accepted: int) -> None:
        """Add a block of drafts with these confidences, the first `accepted` kept."""
        factor = 0.5 ** (1.0 / self.HALF_LIFE)
        for i, word in enumerate(confidence[: accepted + 1]):
            at = self._bin(word)
            self.kept[at] = self.kept[at] * factor + (i < accepted)
            self.tried[at] = self.tried[at] * factor + 1.0

    def chances(self, confidence: Sequence[float]) -> list[float]:
        """The chance of each draft."""
        return [
            (self.kept[at] + self.LEAN * word) / (self.tried[at] + self.LEAN)
            for word, at in ((word, self._bin(word)) for word in confidence)
        ]


def expected(chances: Sequence[float]) -> list[float]:
    """Expected tokens of a round with 0, 1, ... drafts of such chances, the bonus token
    included."""
    tokens, chain = [1.0], 1.0
    for chance in chances:
        chain *= chance
        tokens.append(tokens[-1] + chain)
    return tokens


class Acceptance:
    """The chance that each draft of a block is kept, given that those before it were.

    Recent rounds count more. A place with few rounds of its own leans on all places
    together, so that one block kept whole says much, and a wider block looks worth a
    try where a narrow one is kept whole.

    Args:
        prior: The chance before anything was seen.
        weight: How many drafts that is worth.
    """

    HALF_LIFE = 16.0  # rounds until a round counts half
    LEAN = 3.0  # rounds that all places together are worth

    def __init__(self, prior: float = 0.85, weight: float = 2.0):
        self.prior, self.weight = prior, weight
        self.kept: list[float] = []
        self.tried: list[float] = []

    def age(self, rounds: float) -> None:
        """Let so many rounds pass without one."""
        factor = 0.5 ** (rounds / self.HALF_LIFE)
        self.kept = [count * factor for count in self.kept]
        self.tried = [count * factor for count in self.tried]

    def count(self, judged: int, accepted: int) -> None:
        """Add a block of which `judged` drafts could be kept, and `accepted` were."""
        self.age(1.0)
        reached = min(judged, accepted + 1)
        more = [0.0] * (reached - len(self.tried))
        self.tried, self.kept = self.tried + more, self.kept + more
        for i in range(reached):
            self.tried[i] += 1.0
            self.kept[i] += i < accepted

    def limit(self, rounds: float) -> None:
        """Let what was seen count no more than so many rounds."""
        if self.tried and self.tried[0] > rounds:
            self.age(self.HALF_LIFE * math.log2(self.tried[0] / rounds))

    def chances(self, drafts: int) -> list[float]:
        """The chance of each of `drafts` places."""
        whole = (sum(self.kept) + self.weight * self.prior) / (
            sum(self.tried) + self.weight
        )
        more = [0.0] * (drafts - len(self.tried))
        places = zip(self.kept + more, self.tried + more, strict=True)
        found = [
            (kept + self.LEAN * whole) / (tried + self.LEAN) for kept, tried in places
        ]
        return found[:drafts]

    def expected(self, drafts: int) -> list[float]:
        """Expected tokens of a round with 0, 1, ... `drafts` drafts."""
        return expected(self.chances(drafts))
