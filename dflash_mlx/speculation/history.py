"""What a pair's rounds have shown, from text to text.

Owns the numbers that outlive a text, and their form in a file. Does not choose widths;
see controller.py. Does not know the file; see tuning/remember.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .acceptance import Acceptance, ConfidenceCalibration
from .costs import Costs

# Most credit of a new pair, in plain rounds, and what plain rounds can restore it to.
START_CREDIT = 1.1
# Credit of a new text for probes, and the most.
START_PROBE_CREDIT, MOST_PROBE_CREDIT = 0.5, 1.0


@dataclass
class History:
    """What a pair's rounds have shown. It is kept from text to text.

    Args:
        costs: Seconds of rounds.
        acceptance: Of the drafter's drafts.
        lookup_acceptance: Of prompt lookup's drafts, by the kind of match.
        confidence: How far the drafter's confidence is right, if it gives one.
        credit: Plain rounds that blocks may lose from now on; below 0 is a debt.
        probe_credit: Plain rounds that probes may cost from now on.
        since_plain: Drafted rounds since the last plain one.
    """

    costs: Costs = field(default_factory=Costs)
    acceptance: Acceptance = field(default_factory=Acceptance)
    lookup_acceptance: dict[str, Acceptance] = field(default_factory=dict)
    confidence: ConfidenceCalibration = field(default_factory=ConfidenceCalibration)
    credit: float = START_CREDIT
    probe_credit: float = START_PROBE_CREDIT
    since_plain: int = 0

    def fork(self) -> History:
        """A copy for a text that is decoded beside others; the costs are shared."""
        copied = copy.deepcopy(replace(self, costs=Costs()))
        copied.costs = self.costs
        return copied

    def join(self, text: History) -> None:
        """Learn what a text has shown whose history was forked from this one."""
        self.acceptance.learn(text.acceptance)
        for kind, acceptance in text.lookup_acceptance.items():
            known = self.lookup_acceptance.setdefault(kind, Acceptance())
            known.learn(acceptance)
        self.confidence = text.confidence
        self.credit, self.since_plain = text.credit, text.since_plain

    def to_json(self) -> dict[str, Any]:
        """What a later process can start from, without the costs: for `restore`."""
        lookup = {kind: a.to_json() for kind, a in self.lookup_acceptance.items()}
        return {
            "acceptance": self.acceptance.to_json(),
            "lookup": lookup,
            "confidence": self.confidence.to_json(),
            "credit": round(self.credit, 3),
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Replace everything but the costs by what `to_json` described.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: `values` have another form.
                Nothing is replaced then.
        """
        acceptance = Acceptance.from_json(values["acceptance"])
        lookup = {k: Acceptance.from_json(v) for k, v in values["lookup"].items()}
        confidence = ConfidenceCalibration.from_json(values["confidence"])
        credit = float(values["credit"])
        if not math.isfinite(credit):
            raise ValueError("the credit is not finite")
        self.acceptance, self.lookup_acceptance = acceptance, lookup
        self.confidence, self.credit = confidence, credit
