"""How likely drafts are to be kept, by their place in the block.

Owns counts that forget. Knows no costs and chooses nothing: width.py does.
"""

from __future__ import annotations

import math


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
        """Expected tokens of a round with 0, 1, ... `drafts` drafts, the bonus token
        included."""
        tokens, chain = [1.0], 1.0
        for chance in self.chances(drafts):
            chain *= chance
            tokens.append(tokens[-1] + chain)
        return tokens
