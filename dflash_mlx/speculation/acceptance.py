"""How likely drafts are to be accepted: in this text, and in earlier texts.

Owns what judged drafts say about the next ones. Does not know what a pass costs and
chooses no width; see controller.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


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

    def to_json(self) -> dict[str, list[float]]:
        """The counts, for `from_json`."""
        return {
            "kept": [round(count, 4) for count in self.kept],
            "tried": [round(count, 4) for count in self.tried],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ConfidenceCalibration:
        """The calibration that `to_json` described.

        Raises:
            ValueError, KeyError, TypeError: `values` have another form.
        """
        calibration = cls()
        calibration.kept, calibration.tried = (
            _counts(values[name], cls.BINS) for name in ("kept", "tried")
        )
        return calibration


def _counts(values: Sequence[float], number: int | None = None) -> list[float]:
    """`values` as counts from a file.

    Raises:
        ValueError, TypeError: They are no counts, or not `number` of them.
    """
    counts = [float(value) for value in values]
    if number not in (None, len(counts)):
        raise ValueError(f"there are {len(counts)} counts, not {number}")
    if not all(math.isfinite(count) and count >= 0 for count in counts):
        raise ValueError("a count is negative or not finite")
    return counts


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


# Chances that a draft is kept, given that the drafts before it were.
LEVELS = np.array(
    [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98], np.float64
)
# What is believed of a new pair: texts that cannot be drafted, and texts that are easy.
NEW_PAIR = np.array([1, 0.4, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 1, 1, 0.8, 0.5])
NEW_PAIR = NEW_PAIR / NEW_PAIR.sum()
MOST_CHANCE = 0.99


class Acceptance:
    """How likely drafts are to be kept, as a belief over levels of acceptance.

    A stretch of text is easy or hard to draft. Each level is one chance that a draft is
    kept, and the belief is the probability of each level now. Judged drafts update it
    by Bayes' rule. Since a text may turn, a share of the belief returns to the prior
    with every round: a hidden Markov model's forward pass over the levels.

    The prior of a text is the average belief in earlier texts, recent ones first, and
    what is believed of a new pair, which counts as one text.

    A drafter is better at some places of a block than at others. So a level's chance is
    multiplied by a factor of the place: the share of drafts kept there over the share
    that the levels expected.
    """

    TURN = 0.03  # share of the belief that returns to the prior with a judged block
    TURN_UNSEEN = 0.005  # ... and with a plain round, which judges nothing
    TEXT_DECAY = 0.5 ** (1 / 12)  # an earlier text counts half after 12 others
    PLACE_WEIGHT = 20.0  # drafts that a factor of 1 counts as
    PLACE_DECAY = 0.995  # weight of a place's earlier drafts, per draft

    def __init__(self):
        self.texts = np.zeros(len(LEVELS))  # decayed sum of beliefs in earlier texts
        self.kept, self.expected = np.zeros(0), np.zeros(0)  # drafts, by place
        self._begin()

    def _begin(self):
        self.prior = (self.texts + NEW_PAIR) / (self.texts.sum() + 1.0)
        self.belief, self.sum, self.blocks = self.prior, np.zeros(len(LEVELS)), 0
        self._tokens: list[float] = []

    @property
    def is_new(self) -> bool:
        """Whether no draft was ever judged."""
        return not (self.blocks or self.texts.any())

    def start_text(self) -> None:
        """Add the last text to the earlier ones and begin a new one.

        A text in which no draft was judged is not added.
        """
        self.texts = self._texts_and_this()
        self._begin()

    def _texts_and_this(self):
        if not self.blocks:
            return self.texts
        return self.texts * self.TEXT_DECAY + self.sum / self.blocks

    def learn(self, text: Acceptance) -> None:
        """Add a text that was judged in a copy of this acceptance."""
        if text.blocks:
            self.texts = self.texts * self.TEXT_DECAY + text.sum / text.blocks
            self.kept, self.expected = text.kept, text.expected

    def record(self, judged: int, accepted: int, first: int = 0) -> None:
        """Add a block, or a part of one.

        Args:
            judged: Drafts that could be kept.
            accepted: Leading ones that were.
            first: Place of the first of them in its block, from 0.
        """
        self._turn(self.TURN if first == 0 else 0.0)
        end = first + min(judged, accepted + 1)
        chances = self._chances(end)[:, first:]
        like = chances[:, :accepted].prod(axis=1)
        if accepted < judged:
            like = like * (1.0 - chances[:, accepted])
        belief = self.belief * like
        self.belief = belief / belief.sum()
        self._record_places(first, end, accepted)
        self.sum, self.blocks = self.sum + self.belief, self.blocks + 1

    def _record_places(self, first, end, accepted):
        more = np.zeros(max(0, end - len(self.kept)))
        self.kept = np.concatenate([self.kept, more])
        self.expected = np.concatenate([self.expected, more])
        self.kept[first:end] *= self.PLACE_DECAY
        self.kept[first : first + accepted] += 1.0
        self.expected[first:end] *= self.PLACE_DECAY
        self.expected[first:end] += self.belief @ LEVELS

    def pass_round(self) -> None:
        """Record a round that judges no draft."""
        self._turn(self.TURN_UNSEEN)

    def _turn(self, share):
        self.belief = (1.0 - share) * self.belief + share * self.prior
        self._tokens = []

    def _chances(self, drafts):
        """[levels, drafts] the chance at each place, by level. Places behind the last
        known one have its factor."""
        factors = (self.kept + self.PLACE_WEIGHT) / (self.expected + self.PLACE_WEIGHT)
        last = factors[-1:] if len(factors) else np.ones(1)
        more = np.repeat(last, max(0, drafts - len(factors)))
        factors = np.concatenate([factors, more])[:drafts]
        return np.minimum(LEVELS[:, None] * factors, MOST_CHANCE)

    def _tokens_by_level(self, drafts):
        """[levels, 1 + drafts] expected tokens of a round with 0, 1, ... drafts."""
        chains = np.cumprod(self._chances(drafts), axis=1)
        return np.cumsum(np.concatenate([np.ones_like(LEVELS)[:, None], chains], 1), 1)

    def expected_tokens(self, drafts: int) -> list[float]:
        """Expected tokens of a round with 0, 1, ... `drafts` drafts."""
        if len(self._tokens) <= drafts:
            self._tokens = (self.belief @ self._tokens_by_level(drafts)).tolist()
        return self._tokens[: drafts + 1]

    def gain(self, costs: Sequence[float], least: float) -> float:
        """The share of plain decoding's time that drafting is expected to save if the
        level becomes known.

        Args:
            costs: Seconds of rounds of 2, 3, ... rows, in plain rounds.
            least: Speed over plain decoding from which on drafting is chosen.
        """
        speeds = (self._tokens_by_level(len(costs))[:, 1:] / costs).max(axis=1)
        return float(self.belief @ np.where(speeds > least, 1.0 - 1.0 / speeds, 0.0))

    def to_json(self) -> dict[str, list[float]]:
        """What a later text starts from: for `from_json`."""
        texts = self._texts_and_this()
        values = {"texts": texts, "kept": self.kept, "expected": self.expected}
        return {name: np.round(v, 4).tolist() for name, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Acceptance:
        """The acceptance that `to_json` described.

        Raises:
            ValueError, KeyError, TypeError: `values` have another form.
        """
        acceptance = cls()
        acceptance.texts = np.array(_counts(values["texts"], len(LEVELS)))
        acceptance.kept = np.array(_counts(values["kept"]))
        places = len(acceptance.kept)
        acceptance.expected = np.array(_counts(values["expected"], places))
        acceptance._begin()
        return acceptance
