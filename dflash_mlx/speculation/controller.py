"""How many rows the next verify pass gets, and where its drafts come from.

The plan with the most expected tokens per second wins; one row is plain decoding. Owns
that choice. Its only input is what rounds report: which drafts were kept, and how long
a round took. Does not know models, tokens or text.

Drafting may lose only a small share of plain decoding's time. A credit, in plain
rounds, bounds the loss: a drafted round adds what it gained, or takes what it lost.
What was earned is kept for the next text. Where the credit covers no block, decoding is
plain ("parked"). Probes decide when drafting starts again: the drafter drafts a block
beside a plain round, and the block is compared with the tokens that plain decoding then
gives. That costs a draft pass and no verify pass, and has a credit of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types import Round
from .acceptance import Acceptance, expected_tokens
from .costs import DRAFTER, LOOKUP, PLAIN
from .history import (
    MOST_PROBE_CREDIT,
    START_CREDIT,
    START_PROBE_CREDIT,
    History,
)
from .lookup import Proposal

# Most rows of a block whose drafts come from prompt lookup.
LOOKUP_ROWS = 16


@dataclass(frozen=True)
class Plan:
    """What the next round does.

    Args:
        width: Rows that the target verifies; 1 is plain decoding.
        source: PLAIN, or where the width - 1 drafts come from.
        probe_rows: Rows of a block to draft beside a plain round, without verifying it.
        drafts: The drafts, if they come from prompt lookup or a grammar.
    """

    width: int = 1
    source: str = PLAIN
    probe_rows: int = 0
    drafts: Sequence[int] | None = field(default=None, compare=False, repr=False)


class Controller:
    """Chooses the width of every round of one text.

    Args:
        widest: Rows of the drafter's widest block.
        history: What earlier texts have shown. This text's rounds are added to it.
    """

    uses_confidence = True  # request it from a drafter that has one

    # Speed ratios. They stop the width from changing with every round's noise.
    SWITCH_RATIO = 1.02  # another width over the last one, before it replaces it
    UNPARK_RATIO = 1.03  # drafting over plain decoding, before it starts again
    # Plain rounds of credit, and of the probes' credit, per plain round: 1 and 0.8 %
    # of plain decoding's time.
    CREDIT_PER_ROUND, PROBE_CREDIT_PER_ROUND = 0.01, 0.008
    # Most credit, in rounds as wide as the last drafted one ...
    MOST_CREDIT = 4.0
    # ... and what a new text may take over of it, in plain rounds.
    MOST_CARRIED = 4.0
    # Speed over plain decoding, expected from earlier texts, at which a new one gets
    # START_CREDIT whatever the last one has lost.
    PAYING_RATIO = 1.2
    # Full blocks that a new pair may lose, if that is less than START_CREDIT.
    FIRST_BLOCKS = 2.0
    # Plain rounds that a source may owe if most of its last block was kept, or if as
    # many blocks of this text were judged ...
    MOST_DEBT, SURE_BLOCKS = 3.0, 6
    # ... and the most that a round which took longer than expected can make of it.
    LEAST_CREDIT = -5.0
    # Rows of a probe. With all 16 rows the comparison ends too late.
    PROBE_ROWS = 8
    # Tokens between two probes.
    PROBE_GAP = 4
    # Tokens for which the result of a probe is expected to be useful.
    PROBE_REACH = 64
    # What a probe costs beside its draft pass, in plain rounds.
    PROBE_WAIT = 0.1
    # Plain rounds in a row that time plain decoding. The outer two do not count: next
    # to a block, a single row waits for another time.
    TIMING_ROUNDS = 3
    # Drafted rounds before that, where the cost of plain decoding is not known ...
    FIRST_TIMING = 2
    # ... and where it is; it may have been measured while other programs ran.
    NEXT_TIMING = 192
    # Speed of drafting over plain decoding from which on the first can wait as long.
    CLEAR_RATIO = 1.6
    # Expected seconds from which on a longer round is charged no more: another program
    # was the cause.
    OUTLIER_RATIO = 3.0

    def __init__(self, widest: int, history: History):
        self.widest = widest
        self.history, self.costs = history, history.costs
        self.acceptance = history.acceptance
        for known in (self.acceptance, *history.lookup_acceptance.values()):
            known.start_text()
        history.credit = self._first_credit()
        history.probe_credit = max(history.probe_credit, START_PROBE_CREDIT)
        self.last = Plan(widest, DRAFTER)
        self.timing_rounds_left = 0
        self.since_probe = self.PROBE_GAP  # tokens
        # Source and kind -> whether most of its last block was kept.
        self.mostly_kept: dict[str, bool] = {}

    def _first_credit(self):
        """The credit of this text."""
        credit = self.history.credit
        if self.acceptance.is_new:
            loss = self.relative_cost(Plan(self.widest, DRAFTER), 0) - 1.0
            return min(credit, self.FIRST_BLOCKS * max(loss, 0.0))
        if self._best_speed(0) >= self.PAYING_RATIO:
            credit = max(credit, START_CREDIT)
        return min(credit, self.MOST_CARRIED)

    def plan(self, context: int, left: int, match: Proposal | None = None) -> Plan:
        """The plan of the next round. Does not change the controller.

        Args:
            context: Rows before the round.
            left: Tokens that may still follow.
            match: What prompt lookup proposes, if anything.
        """
        if self.timing_rounds_left:
            return Plan()
        best = self._best_plan(context, left, match)
        if best.source == PLAIN and self._should_probe(context, left):
            return Plan(probe_rows=min(self.widest, self.PROBE_ROWS))
        return best

    def relative_cost(self, plan: Plan, context: int) -> float:
        """Seconds of a plan's round over those of a plain round."""
        plain = self.costs.seconds(PLAIN, 1, context)
        return self.costs.seconds(plan.source, plan.width, context) / plain

    def speed(self, tokens: float, cost: float) -> float:
        """The speed of rounds over plain decoding's.

        Args:
            tokens: Expected tokens of a round.
            cost: Its `relative_cost`.
        """
        return tokens / cost

    def _best_plan(self, context, left, match):
        """The plan with the most expected tokens per second."""
        # Speeds are relative to plain decoding: 1 token per plain round.
        best, best_speed, last_speed = Plan(), 1.0, 0.0
        for source, kind, widest in self._sources(left, match):
            margin = self.history.credit
            known = self._acceptance_of(source, kind)
            if self.mostly_kept.get(source + kind) or known.blocks >= self.SURE_BLOCKS:
                margin += self.MOST_DEBT
            tokens = known.expected_tokens(widest - 1)
            for width in range(2, widest + 1):
                plan = Plan(width, source)
                cost = self.relative_cost(plan, context)
                if cost - 1.0 > margin:
                    continue  # would lose too much if no draft is kept
                speed = self.speed(tokens[width - 1], cost)
                last_speed = speed if plan == self.last else last_speed
                if speed > best_speed:
                    best, best_speed = plan, speed
        if self.last.source == PLAIN:
            return best if best_speed > self.UNPARK_RATIO else Plan()
        keep_last = best != Plan() and last_speed * self.SWITCH_RATIO > best_speed
        return self.last if keep_last else best

    def _sources(self, left, match):
        """(source, kind, most rows) of everything that can propose drafts now."""
        yield DRAFTER, "", min(self.widest, left)
        if match is not None:
            yield (
                match.source,
                match.kind,
                min(LOOKUP_ROWS, len(match.tokens) + 1, left),
            )

    def _acceptance_of(self, source, kind):
        if source == DRAFTER:
            return self.acceptance
        return self.history.lookup_acceptance.setdefault(kind, Acceptance())

    def _should_probe(self, context, left):
        ready = left > self.PROBE_ROWS and self.since_probe >= self.PROBE_GAP
        if self.widest < 2 or not ready:
            return False
        cost = self._probe_cost(min(self.widest, self.PROBE_ROWS), context)
        # A probe that costs more than the most credit waits for all of that.
        needed = min(cost, MOST_PROBE_CREDIT)
        credit = max(self.history.probe_credit, self.history.credit - START_CREDIT)
        if credit < needed and not self.mostly_kept.get(DRAFTER):
            return False
        widths = range(2, self.widest + 1)
        costs = [self.relative_cost(Plan(w, DRAFTER), context) for w in widths]
        gain = self.acceptance.gain(costs, self.UNPARK_RATIO)
        return gain * min(left, self.PROBE_REACH) > cost

    def _probe_cost(self, rows, context):
        """Plain rounds that a probe costs."""
        plain = self.costs.seconds(PLAIN, 1, context)
        return self.costs.draft_seconds(rows, context) / plain + self.PROBE_WAIT

    def trim(self, rows: int, confidence: Sequence[float], context: int) -> int:
        """The number of rows of a drafted block that are worth verifying; 1 is none.

        Args:
            rows: Rows of the block.
            confidence: The drafter's, in each draft.
            context: Rows before the block.
        """
        tokens = expected_tokens(self.history.confidence.chances(confidence))
        plain = self.costs.seconds(PLAIN, 1, context)
        # Only the verify pass counts: the block is drafted already.
        costs = [plain] + [
            self.costs.seconds(LOOKUP, width, context) for width in range(2, rows + 1)
        ]
        speeds = [n / seconds for n, seconds in zip(tokens, costs, strict=True)]
        return 1 + max(range(len(speeds)), key=speeds.__getitem__)

    def record_confidence(self, confidence: Sequence[float], accepted: int) -> None:
        """Record how many drafts of a block were kept.

        Args:
            confidence: The drafter's, in each draft.
            accepted: Leading drafts that were kept.
        """
        self.history.confidence.record(confidence, accepted)

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
        """Record a round.

        Args:
            plan: Its plan, as it was carried out.
            round: What it committed.
            context: Rows before it.
            seconds: Its time, without the caller's.
            kind: The kind of the lookup's match, if that gave the drafts.
            steady: For a plain round: it lay between two others, each sent ahead.
            caller_seconds: What the caller spent during the round.
        """
        if plan.source == PLAIN:
            self._record_plain(plan, context, seconds, steady, caller_seconds)
        else:
            self._record_drafted(plan, round, context, seconds)
            self.record_drafts(plan.source, kind, round.judged, round.accepted)
            self._schedule_timing(context)
        self.last = plan

    def _record_drafted(self, plan, round, context, seconds):
        plain = self.costs.seconds(PLAIN, 1, context)
        usual = self.costs.seconds(plan.source, plan.width, context)
        self.record_time(plan, context, seconds)
        cost = min(seconds, self.OUTLIER_RATIO * usual) / plain
        self._add_credit(len(round.tokens) - cost, self.MOST_CREDIT * usual / plain)
        self.history.since_plain += 1

    def _record_plain(self, plan, context, seconds, steady, caller_seconds):
        if plan.probe_rows:
            self.since_probe = 0
            cost = self._probe_cost(plan.probe_rows, context)
            history = self.history
            if history.credit - START_CREDIT >= cost > history.probe_credit:
                history.credit -= cost  # from what was earned
            else:
                history.probe_credit -= cost
        elif steady and self.last == plan:
            self.record_time(plan, context, seconds, caller_seconds)
        self._add_credit(self.CREDIT_PER_ROUND, self.history.credit)
        probes = self.history.probe_credit + self.PROBE_CREDIT_PER_ROUND
        self.history.probe_credit = max(-1.0, min(probes, MOST_PROBE_CREDIT))
        self.acceptance.pass_round()
        self.timing_rounds_left = max(0, self.timing_rounds_left - 1)
        self.since_probe += 1
        self.history.since_plain = 0

    def record_time(
        self, plan: Plan, context: int, seconds: float, caller_seconds: float = 0.0
    ) -> None:
        """Correct the cost of a plan by a round's time; arguments as in
        `record_round`."""
        source, width = plan.source, plan.width
        self.costs.record(source, width, context, seconds, caller_seconds)

    def _add_credit(self, gain, most=0.0):
        """Add plain rounds to the credit, which stays below `most` or a text's first
        credit, whichever is more."""
        credit = min(self.history.credit + gain, max(most, START_CREDIT))
        self.history.credit = max(self.LEAST_CREDIT, credit)

    def _schedule_timing(self, context):
        """Plan plain rounds where their cost is not known, or is known from long ago.

        Where drafting seems much faster the exact cost does not matter so soon.
        """
        soon = not self.costs.plain_was_timed(context) and not (
            self.costs.plain_is_known and self._best_speed(context) >= self.CLEAR_RATIO
        )
        if self.history.since_plain < (self.FIRST_TIMING if soon else self.NEXT_TIMING):
            return
        self.history.since_plain, self.timing_rounds_left = 0, self.TIMING_ROUNDS

    def cancel_timing(self) -> None:
        """Plan no plain rounds only to time them, since the next ones will not be
        pipelined."""
        self.timing_rounds_left = 0

    def _best_speed(self, context):
        """The drafter's best speed over plain decoding's."""
        tokens = self.acceptance.expected_tokens(self.widest - 1)
        speeds = (
            self.speed(
                tokens[width - 1], self.relative_cost(Plan(width, DRAFTER), context)
            )
            for width in range(2, self.widest + 1)
        )
        return max(speeds, default=1.0)

    def record_drafts(
        self,
        source: str,
        kind: str,
        judged: int,
        accepted: int,
        first: int = 0,
        drafts: int = 0,
    ) -> None:
        """Record how many drafts equal the text, whether they were verified or not.

        Args:
            source, kind: Where the drafts come from.
            judged: Drafts up to the end of the text.
            accepted: Leading drafts that equal it.
            first: Earlier drafts of the same block, which are recorded already.
            drafts: All drafts of the block, if more than first + judged.
        """
        if judged:
            self._acceptance_of(source, kind).record(judged, accepted, first)
            most = max(drafts, first + judged) // 2
            self.mostly_kept[source + kind] = first + accepted > most
