"""How many rows the next verify pass gets, and who proposes its drafts.

Owns the choice, fed by what rounds report and nothing else: which drafts were kept, and
how long it took. The most tokens per second win; one row is plain decoding. Knows no
model, no token and no text.

Drafting may lose against plain decoding no more than a small share of its time: every
drafted round pays its loss from a credit, or its gain into it. With no credit left it
parks. A parked drafter is watched by guesses: it drafts a block that is not verified
but compared with what plain decoding then says, which costs a draft pass and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..types import Round
from .acceptance import Acceptance, ConfidenceCalibration, expected
from .costs import (
    DRAFTER,
    LOOKUP,
    PLAIN,
    Costs,
)

# Of a lookup's first draft, before any was judged.
LOOKUP_PRIOR = 0.6
# Rows of the widest block from a prompt lookup.
LOOKUP_ROWS = 16
# Plain rounds that drafting may lose in a text before it has gained any.
CREDIT = 0.8


@dataclass(frozen=True)
class Plan:
    """What the next round does.

    Args:
        width: Rows that the target verifies; 1 is plain decoding.
        source: Who proposes the width - 1 drafts.
        guess: Rows of a block to draft beside it, to be compared and not verified.
        drafts: The drafts, where a lookup proposes them; None asks the drafter.
    """

    width: int = 1
    source: str = PLAIN
    guess: int = 0
    drafts: Sequence[int] | None = field(default=None, compare=False, repr=False)


class Found(Protocol):
    """What a prompt lookup has to say.

    Attributes:
        drafts: How many tokens.
        kind: How good the match is; matches of a kind share an acceptance.
    """

    drafts: int
    kind: str


@dataclass
class History:
    """What the rounds of a pair have shown, kept from text to text.

    Args:
        costs: What rounds cost here.
        drafter: Which of the drafter's drafts are kept.
        lookup: Which of a prompt lookup's, by the kind of match.
        confidence: What the drafter's own confidence is worth, if it has any.
        credit: Plain rounds that drafting may lose from now on.
        since_plain: Drafted rounds since the last plain one.
    """

    costs: Costs = field(default_factory=Costs)
    drafter: Acceptance = field(default_factory=Acceptance)
    lookup: dict[str, Acceptance] = field(default_factory=dict)
    confidence: ConfidenceCalibration = field(default_factory=ConfidenceCalibration)
    credit: float = CREDIT
    since_plain: int = 0


@dataclass(frozen=True)
class Fixed:
    """Always as many rows: what a block size asks for."""

    width: int
    uses_confidence = False

    def plan(self, context: int, left: int, found: Found | None = None) -> Plan:
        """As Controller.plan."""
        width = min(self.width, left)
        return Plan(width, DRAFTER) if width > 1 else Plan()

    def trim(self, rows: int, confidence: Sequence[float], context: int) -> int:
        """As Controller.trim: all of it."""
        return rows

    def count_confidence(self, confidence: Sequence[float], accepted: int) -> None:
        """As Controller.count_confidence."""

    def report(
        self,
        plan: Plan,
        round: Round,
        context: int,
        seconds: float,
        kind: str = "",
        steady: bool = True,
        away: float = 0.0,
    ) -> None:
        """As Controller.report."""

    def judge(self, source: str, kind: str, judged: int, accepted: int) -> None:
        """As Controller.judge."""


class Controller:
    """Chooses widths.

    Args:
        widest: Rows of the drafter's widest block.
        history: What earlier texts have shown; it counts less than this one's.
    """

    uses_confidence = True  # it asks a drafter how far its drafts can be trusted

    KEEP = 1.02  # another width must be better by this factor
    RETURN = 1.03  # and drafting better than plain decoding, where that goes on
    MEMORY = 1.0  # rounds that all earlier texts are worth
    SHARE = 0.016  # of plain decoding's time that drafting may lose
    MOST = 4.0  # rounds as wide as the last that it may lose at most
    DEBT = -2.0  # plain rounds that it may owe where the last block was mostly kept
    GUESS = 8  # rows of a guess: more would take plain decoding longer to judge
    GAP = 8  # tokens between two guesses
    PARKED_AGE = 0.5  # rounds of forgetting per plain token
    MEASURED = 3  # plain rounds that measure what one costs: those between the ends
    UNSEEN = 2  # drafted rounds after which it is, where it is not known
    REFRESH = 192  # and after which it is again: plain rounds may have been slow then
    CLEAR = 1.6  # later where drafting seems faster by this factor
    OUTLIER = 3.0  # rounds that took longer than that many expected are somebody else's

    def __init__(self, widest: int, history: History):
        self.widest = widest
        self.history, self.costs = history, history.costs
        self.drafter = history.drafter
        for known in (self.drafter, *history.lookup.values()):
            known.limit(self.MEMORY)
        history.credit = min(history.credit, CREDIT)
        self.last = Plan(widest, DRAFTER)
        self.to_measure = 0
        self.since_guess = 0
        self.hopeful: dict[str, bool] = {}  # who kept most of the last block

    def plan(self, context: int, left: int, found: Found | None = None) -> Plan:
        """The next round; nothing changes by asking.

        Args:
            context: Rows before it.
            left: Most tokens that it may give.
            found: What the lookup proposes, if anything.
        """
        if self.to_measure:
            return Plan()
        best = self._best(context, left, found)
        if best.source == PLAIN and self._should_guess(context, left):
            return Plan(guess=min(self.widest, self.GUESS))
        return best

    def price(self, plan: Plan, context: int) -> float:
        """What a plan's round costs, in plain rounds."""
        plain = self.costs.seconds(PLAIN, 1, context)
        return self.costs.seconds(plan.source, plan.width, context) / plain

    def _best(self, context, left, found):
        """The plan with the most tokens per second."""
        # Per plain round, plain decoding gives one token.
        best, most, kept = Plan(), 1.0, 0.0
        for source, kind, widest in self._offers(left, found):
            tokens = self._acceptance(source, kind).expected(widest - 1)
            hopeful = self._hopeful(source, kind)
            margin = self.history.credit - (self.DEBT if hopeful else 0.0)
            for width in range(2, widest + 1):
                plan = Plan(width, source)
                price = self.price(plan, context)
                if price - 1.0 > margin:
                    continue  # more than may be lost, should nothing be kept
                gain = tokens[width - 1] / price
                kept = gain if plan == self.last else kept
                if gain > most:
                    best, most = plan, gain
        if self.last.source == PLAIN:
            return best if most > self.RETURN else Plan()
        return self.last if best != Plan() and kept * self.KEEP > most else best

    def trim(self, rows: int, confidence: Sequence[float], context: int) -> int:
        """Rows of a drafted block that are worth verifying, once its drafter has said
        how far each draft can be trusted; 1 is none of them.

        Args:
            rows: Of the block.
            confidence: The drafter's word for each of its drafts.
            context: Rows before it.
        """
        tokens = expected(self.history.confidence.chances(confidence))
        plain = self.costs.seconds(PLAIN, 1, context)
        # It is drafted already: what counts is the pass.
        prices = [plain] + [
            self.costs.seconds(LOOKUP, width, context) for width in range(2, rows + 1)
        ]
        values = [gain / price for gain, price in zip(tokens, prices, strict=True)]
        return 1 + max(range(len(values)), key=values.__getitem__)

    def count_confidence(self, confidence: Sequence[float], accepted: int) -> None:
        """Take in what became of drafts with such confidence in them."""
        self.history.confidence.count(confidence, accepted)

    def _offers(self, left, found):
        """(source, kind, most rows) of everyone who can draft now."""
        yield DRAFTER, "", min(self.widest, left)
        if found is not None:
            yield LOOKUP, found.kind, min(LOOKUP_ROWS, found.drafts + 1, left)

    def _acceptance(self, source, kind):
        if source == DRAFTER:
            return self.drafter
        return self.history.lookup.setdefault(kind, Acceptance(LOOKUP_PRIOR))

    def _hopeful(self, source, kind=""):
        return self.hopeful.get(source + kind, False)

    def _should_guess(self, context, left):
        if left <= self.GAP or self.since_guess < self.GAP:
            return False
        plain = self.costs.seconds(PLAIN, 1, context)
        price = self.costs.drafting(min(self.widest, self.GUESS), context) / plain
        # A drafter dearer than all credit there can be is watched on a full one.
        needed = min(price, CREDIT)
        if self.history.credit < needed and not self._hopeful(DRAFTER):
            return False
        # Where not even perfect drafts would pay there is nothing to find out.
        widths = range(2, self.widest + 1)
        prices = (self.price(Plan(width, DRAFTER), context) for width in widths)
        return any(w > self.RETURN * p for w, p in zip(widths, prices, strict=True))

    def report(
        self,
        plan: Plan,
        round: Round,
        context: int,
        seconds: float,
        kind: str = "",
        steady: bool = True,
        away: float = 0.0,
    ) -> None:
        """Take in a round.

        Args:
            plan: What it did.
            round: What came of it.
            context: Rows before it.
            seconds: What it took, the caller's time left out.
            kind: Of the lookup's match, if that drafted.
            steady: A plain round in the midst of others, each sent ahead.
            away: Seconds that the caller had beside them.
        """
        if plan.source == PLAIN:
            self._plain(plan, context, seconds, steady, away)
        else:
            self._drafted(plan, round, context, seconds)
            self.judge(plan.source, kind, round.judged, round.accepted)
            self._see_to_measuring(context)
        self.last = plan

    def _drafted(self, plan, round, context, seconds):
        """What a drafted round cost, and gained."""
        plain = self.costs.seconds(PLAIN, 1, context)
        usual = self.costs.seconds(plan.source, plan.width, context)
        self.costs.see(plan.source, plan.width, context, seconds)
        price = min(seconds, self.OUTLIER * usual) / plain
        self._pay(len(round.tokens) - price, self.MOST * usual / plain)
        self.history.since_plain += 1

    def _plain(self, plan, context, seconds, steady, away):
        """What a plain round cost, and the guess beside it."""
        if plan.guess:
            self.since_guess = 0
            plain = self.costs.seconds(PLAIN, 1, context)
            self._pay(-self.costs.drafting(plan.guess, context) / plain)
        elif steady and self.last == plan:
            self.costs.see(PLAIN, 1, context, seconds, away)
        self._pay(self.SHARE, self.history.credit)
        self.drafter.age(self.PARKED_AGE)
        self.to_measure = max(0, self.to_measure - 1)
        self.since_guess += 1
        self.history.since_plain = 0

    def _pay(self, gain, most=0.0):
        """Put a gain, in plain rounds, into the credit, up to `most`."""
        credit = min(self.history.credit + gain, max(most, CREDIT))
        self.history.credit = max(self.DEBT, credit)

    def _see_to_measuring(self, context):
        """Plan plain rounds if what they cost may have changed, and matters."""
        soon = not self.costs.knows_plain(context) and not (
            self.costs.known and self._best_gain(context) >= self.CLEAR
        )
        if self.history.since_plain < (self.UNSEEN if soon else self.REFRESH):
            return
        self.history.since_plain, self.to_measure = 0, self.MEASURED

    def _best_gain(self, context):
        """The drafter's best width against plain decoding."""
        tokens = self.drafter.expected(self.widest - 1)
        gains = (
            tokens[width - 1] / self.price(Plan(width, DRAFTER), context)
            for width in range(2, self.widest + 1)
        )
        return max(gains, default=1.0)

    def judge(self, source: str, kind: str, judged: int, accepted: int) -> None:
        """Take in how drafts compared with the text, whether they were used or not."""
        if judged:
            self._acceptance(source, kind).count(judged, accepted)
            self.hopeful[source + kind] = accepted > judged // 2
