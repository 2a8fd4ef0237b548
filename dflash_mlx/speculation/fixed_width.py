"""A block size that the caller sets, in place of a Controller.

Does not know rounds or costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..types import Round
from .controller import Plan
from .costs import DRAFTER
from .lookup import Proposal


@dataclass(frozen=True)
class FixedWidth:
    """Stands in for a Controller where the caller sets the block size."""

    width: int
    uses_confidence = False

    @property
    def widest(self) -> int:
        """As Controller.widest."""
        return self.width

    def plan(self, context: int, left: int, match: Proposal | None = None) -> Plan:
        """As Controller.plan."""
        width = min(self.width, left)
        return Plan(width, DRAFTER) if width > 1 else Plan()

    def trim(self, rows: int, confidence: Sequence[float], context: int) -> int:
        """As Controller.trim; keeps every row."""
        return rows

    def record_confidence(self, confidence: Sequence[float], accepted: int) -> None:
        """As Controller.record_confidence; does nothing."""

    def cancel_timing(self) -> None:
        """As Controller.cancel_timing; does nothing."""

    def record_round(
        self,
        plan: Plan,
        round: Round,
        context: int,
        seconds: float,
        kind: str = "",
        steady: bool = True,
        caller_seconds: float = 0.0,
    ) -> None:
        """As Controller.record_round; does nothing."""

    def record_drafts(
        self,
        source: str,
        kind: str,
        judged: int,
        accepted: int,
        first: int = 0,
        drafts: int = 0,
    ) -> None:
        """As Controller.record_drafts; does nothing."""
