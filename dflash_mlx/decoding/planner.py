"""What the next round of an answer does, and what the controller learns from it.

Owns the plans, the prompt lookup, drafts that are compared with the text instead of
verified (probes), and the stopwatch. Does not know sampling or caches. A width is
chosen by speculation/controller.py, which does not know tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..speculation.controller import LOOKUP_ROWS, Controller, Plan
from ..speculation.costs import DRAFTER, FORCED, LOOKUP, PLAIN, Stopwatch
from ..speculation.fixed_width import FixedWidth
from ..speculation.lookup import Lookup, Proposal
from ..types import Round
from .round import Stops


@dataclass
class Probe:
    """Drafts that are compared with the text that follows instead of being verified.

    Args:
        source: Where they come from.
        kind: The kind of a lookup's match.
        at: The place in the text that the first one is for.
        tokens: The drafts.
        confidence: The drafter's, in each draft.
        equal: Leading drafts that are compared already. They equal the text.
        ended: Whether nothing is left to compare.
    """

    source: str
    kind: str
    at: int
    tokens: list[int]
    confidence: Sequence[float] = ()
    equal: int = 0
    ended: bool = False

    def compare(self, text: list[int]) -> tuple[int, int]:
        """Compare the drafts for which the text has come far enough since last time.

        Returns:
            The number of drafts that are judged by this, 0 or more, and the number of
            leading ones that equal the text. A difference judges all drafts behind it.
        """
        first, followed = self.equal, text[self.at : self.at + len(self.tokens)]
        while self.equal < len(followed):
            if followed[self.equal] != self.tokens[self.equal]:
                self.ended = True
                return len(self.tokens) - first, self.equal - first
            self.equal += 1
        self.ended = self.equal == len(self.tokens)
        return self.equal - first, self.equal - first


class Planner:
    """Plans the rounds of one answer and reports them to the controller.

    Args:
        controller: Chooses widths.
        text: All tokens, the prompt's included. It grows as rounds are committed.
        stops: Has the number of tokens that may follow.
        most: Most rows of a block.
        lookup: Proposes drafts from the text itself; None proposes none.
    """

    def __init__(
        self,
        controller: Controller | FixedWidth,
        text: list[int],
        stops: Stops,
        most: int,
        lookup: Lookup | None = None,
    ):
        self.controller, self.text, self.stops = controller, text, stops
        self.most, self.lookup = most, lookup
        self.watch = Stopwatch()
        self.reset()

    def reset(self) -> None:
        """Forget the current round, since a prefill follows."""
        self.plan: Plan | None = None  # of the current round; None for no round
        self.match: Proposal | None = None  # the lookup's, if the round verifies it
        self.probe: mx.array | None = None  # drafted beside the round, not read yet
        self.confidence: list[float] = []  # the drafter's, in the round's drafts
        # A grammar forbids the draft behind the round's last one.
        self.illegal = False
        self.forced: list[int] = []  # a grammar allows only these tokens next
        self.masked = False  # a grammar masks the next round
        # Whether the pass of the current round was sent ahead, and that of the next is.
        self.sent_ahead = self.next_sent_ahead = False
        self.probes: dict[str, Probe] = {}  # by source

    @property
    def uses_confidence(self) -> bool:
        """Whether plans depend on the drafter's confidence."""
        return self.controller.uses_confidence

    @property
    def is_plain(self) -> bool:
        """Whether all rounds are plain."""
        return self.controller.widest == 1

    def can_send_ahead(self) -> bool:
        """Whether a plain round follows the current one, whatever its token is, so that
        its pass can be sent before the token is read."""
        self.next_sent_ahead = self._next()[0] == Plan()
        return self.next_sent_ahead

    def next(self) -> Plan:
        """The plan of the next round."""
        plan, match = self._next()
        if plan.source == DRAFTER and len(self.forced) >= plan.width - 1:
            match = Proposal(self.forced, "forced", FORCED)
            plan = replace(plan, source=FORCED)
        if plan.source in (PLAIN, DRAFTER):
            match = None
        else:
            plan = replace(plan, drafts=match.tokens[: plan.width - 1])
        self.plan, self.match, self.confidence = plan, match, []
        return plan

    def to_verify(self, block: mx.array, confidence: mx.array | None) -> mx.array:
        """The rows of a drafted block [n] that are worth verifying; 1 or more.

        Args:
            block: Drafted for the plan.
            confidence: [n - 1] the drafter's, in each draft. Reading it waits.
        """
        if confidence is not None:
            # A head that overflows gives no information.
            self.confidence = mx.nan_to_num(confidence).tolist()
        if self.plan.probe_rows:
            self.probe = block[1:]
            return block[:1]
        if self.confidence and len(block) > 1:
            context = len(self.text)
            rows = self.controller.trim(len(block), self.confidence, context)
            if rows == 1:  # the block becomes a probe
                self.plan, self.probe = Plan(probe_rows=len(block)), block[1:]
            block = block[:rows]
        return block

    def drop_illegal(self, block: mx.array, rows: int) -> mx.array:
        """The block without the drafts that a grammar forbids.

        Args:
            block: From `to_verify`.
            rows: The leading rows that are legal; 1 or more.
        """
        self.illegal = rows < len(block)
        if rows == 1 < len(block) and self.plan.source == DRAFTER:
            self.plan, self.probe = Plan(probe_rows=len(block)), block[1:]
            self.illegal = False  # the comparison of the probe records it
        return block[:rows]

    def _next(self):
        most = min(self.stops.left, self.most)
        match = self._look_up()
        plan = self.controller.plan(len(self.text), most, match)
        if plan.probe_rows and DRAFTER in self.probes:  # that one is right so far
            plan = Plan()
        return plan, match

    def _look_up(self):
        """What can be drafted without the drafter, if anything."""
        if not self.lookup:
            return None
        match, forced = self.lookup.find(LOOKUP_ROWS - 1), self.forced
        if not forced or (match and match.tokens[: len(forced)] == forced):
            return match
        return Proposal(forced, "forced", FORCED)

    def report(self, round: Round) -> None:
        """Report a committed round to the controller."""
        seconds = self.watch.lap()
        at = len(self.text) - len(round.tokens)
        if self.plan is not None and round.width:
            if round.width > 1:  # it may be narrower than planned
                played = replace(self.plan, width=round.width)
                self.probes.pop(played.source, None)  # a pass has verified this source
            else:
                played = Plan(probe_rows=self.plan.probe_rows)
            kind = self.match.kind if self.match else ""
            # A single row takes its usual time only between two other single rows.
            steady = self.sent_ahead and self.next_sent_ahead
            paused = self.watch.paused_seconds
            # A draft that a grammar forbids is judged as one that was not kept.
            seen = replace(round, drafted=round.drafted + self.illegal)
            self.controller.record_round(
                played, seen, at, seconds, kind, steady, paused
            )
            if self.illegal and round.width == 1:
                self.controller.record_drafts(self.plan.source, kind, 1, 0)
            if round.drafted and self.confidence:
                judged = self.confidence[: seen.judged]
                self.controller.record_confidence(judged, round.accepted)
            if self.masked:
                self.controller.cancel_timing()
        self.illegal, self.forced = False, []
        self._start_probes(at)
        self._compare_probes()
        self.plan, self.match = Plan(), None
        self.sent_ahead, self.next_sent_ahead = self.next_sent_ahead, False

    def _start_probes(self, at):
        """Keep drafts that no pass verifies, to compare them with the text."""
        if self.probe is not None:
            tokens, self.probe = self.probe.tolist(), None
            # An unfinished probe, right so far, is not replaced: else only those that
            # fail soon would be recorded.
            probe = Probe(DRAFTER, "", at, tokens, self.confidence)
            self.probes.setdefault(DRAFTER, probe)
        if LOOKUP not in self.probes and (match := self._look_up()):
            at = len(self.text)
            self.probes[LOOKUP] = Probe(LOOKUP, match.kind, at, match.tokens)

    def _compare_probes(self):
        for source, probe in list(self.probes.items()):
            first = probe.equal
            judged, equal = probe.compare(self.text)
            if judged:
                drafts = len(probe.tokens)
                self.controller.record_drafts(
                    source, probe.kind, judged, equal, first, drafts
                )
            if probe.ended:
                if probe.confidence:
                    self.controller.record_confidence(probe.confidence, probe.equal)
                del self.probes[source]
