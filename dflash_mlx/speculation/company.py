"""The width of a block where several texts share their passes.

A text's rows cost what they add to the shared pass, and are worth them if they bring
more tokens than that time brings the others. Owns that price; what earlier rounds
showed, credit and probes are the Controller's. Does not know passes or texts.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..types import Round
from .controller import Controller, Plan
from .costs import DRAFTER, LOOKUP, PLAIN
from .history import History


@dataclass(frozen=True)
class Share:
    """What texts ask of a shared round.

    Args:
        rows: That the target verifies.
        drafted: Rows that the drafter computes.
        tokens: That the texts get, on average.
    """

    rows: int = 0
    drafted: int = 0
    tokens: float = 0.0


class Company:
    """The texts that share passes with each other."""

    def __init__(self):
        self.seats: list[Seat] = []

    @property
    def is_alone(self) -> bool:
        """Whether there is one text at most."""
        return len(self.seats) < 2


class Seat:
    """The place of one text in a company, and what its rounds show.

    Args:
        history: The pair's.
        company: The texts that share passes; None for a text that will stay alone,
            whose rounds the pair's history gets at once.

    Attributes:
        may_have_company: Whether there is a company.
        history: The pair's, or a fork of it that joins it when the text leaves.
        share: What the last round asked.
    """

    RATE = 0.3  # weight of a new round in the average of tokens

    def __init__(self, history: History, company: Company | None = None):
        self.may_have_company = company is not None
        self.company = company or Company()
        self._whole = history
        self.history = history if company is None else history.fork()
        self.share = Share(1, 0, 1.0)

    def take(self) -> None:
        """Begin to share passes."""
        self.company.seats.append(self)

    def leave(self) -> None:
        """Share no more passes, and let the pair's history learn from this text."""
        if self in self.company.seats:
            self.company.seats.remove(self)
        if self.history is not self._whole:
            self._whole.join(self.history)

    def others(self) -> Share:
        """What the others ask together."""
        shares = [seat.share for seat in self.company.seats if seat is not self]
        return Share(
            sum(each.rows for each in shares),
            sum(each.drafted for each in shares),
            sum(each.tokens for each in shares),
        )

    def report(self, plan: Plan, tokens: int) -> None:
        """Report a round.

        Args:
            plan: What it did.
            tokens: That it committed.
        """
        drafted = plan.width if plan.source == DRAFTER else plan.probe_rows
        mean = self.share.tokens + self.RATE * (tokens - self.share.tokens)
        self.share = Share(max(plan.width, 1), drafted, mean)


class SharedController(Controller):
    """A Controller for a text that may have company.

    Args:
        widest: As in Controller.
        seat: The text's.
    """

    def __init__(self, widest: int, seat: Seat):
        self.seat, self.company = seat, seat.company
        super().__init__(widest, seat.history)

    def relative_cost(self, plan: Plan, context: int) -> float:
        """Seconds that a plan adds to the shared round, over the seconds in which the
        texts together give one token; 1 for a plain round, as in Controller."""
        if self.company.is_alone:
            return super().relative_cost(plan, context)
        others = self.seat.others()
        plain = self._round_seconds(others, Plan(), context)
        more = self._round_seconds(others, plan, context) - plain
        return 1.0 + more * (others.tokens + 1.0) / plain

    def _round_seconds(self, others, plan, context):
        """Seconds of a shared round in which this text follows a plan."""
        rows = round(others.rows + plan.width)
        drafted = others.drafted + (plan.width if plan.source == DRAFTER else 0)
        seconds = self.costs.seconds(LOOKUP if rows > 1 else PLAIN, rows, context)
        if drafted:
            seconds += self.costs.draft_seconds(max(2, round(drafted)), context)
        return seconds

    def speed(self, tokens: float, cost: float) -> float:
        """As in Controller: 1 is plain decoding. In company, the tokens won for those
        that all texts lose meanwhile."""
        if self.company.is_alone:
            return super().speed(tokens, cost)
        return tokens - (cost - 1.0)

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
        """As in Controller. A shared round's time is not this text's."""
        if not self.company.is_alone:
            plain = self.costs.seconds(PLAIN, 1, context)
            seconds = self.relative_cost(plan, context) * plain
            self.cancel_timing()
        super().record_round(
            plan, round, context, seconds, kind, steady, caller_seconds
        )

    def record_time(
        self, plan: Plan, context: int, seconds: float, caller_seconds: float = 0.0
    ) -> None:
        """As in Controller, for rounds that this text had for itself."""
        if self.company.is_alone:
            super().record_time(plan, context, seconds, caller_seconds)
