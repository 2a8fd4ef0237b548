"""What the next round of an answer does, and what the controller learns from it.

Owns the plans, the prompt lookup, drafts that are compared with the text instead of
verified (guesses), and the stopwatch. Knows no sampling and no caches. A width is
chosen by speculation/controller.py, which knows no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..speculation.controller import LOOKUP_ROWS, Controller, Fixed, Plan
from ..speculation.costs import DRAFTER, LOOKUP, Stopwatch
from ..speculation.lookup import Lookup, Proposal
from ..types import Round
from .round import Stops


@dataclass
class Guess:
    """Drafts that are compared with what follows, and not verified.

    Args:
        source: Who proposed them.
        kind: The kind of a lookup's match.
        at: Where in the text the first one belongs.
        tokens: The drafts.
        confidence: The drafter's, in each of them.
    """

    source: str
    kind: str
    at: int
    tokens: list[int]
    confidence: Sequence[float] = ()

    def verdict(self, text: list[int]) -> tuple[int, int] | None:
        """The number of drafts that could be right and that were; None while the text
        is too short to tell."""
        followed = text[self.at : self.at + len(self.tokens)]
        for i, (draft, token) in enumerate(zip(self.tokens, followed, strict=False)):
            if draft != token:
                return len(self.tokens), i
        if len(followed) < len(self.tokens):
            return None
        return len(followed), len(followed)


class Planner:
    """Plans the rounds of one answer and reports them to the controller.

    Args:
        controller: Chooses widths.
        text: All tokens, the prompt's included. It grows as rounds are committed.
        stops: Say how many tokens may follow.
        most: Most rows of a block.
        lookup: Proposes drafts from the text itself; None proposes none.
    """

    def __init__(
        self,
        controller: Controller | Fixed,
        text: list[int],
        stops: Stops,
        most: int,
        lookup: Lookup | None = None,
    ):
        self.controller, self.text, self.stops = controller, text, stops
        self.most, self.lookup = most, lookup
        self.watch = Stopwatch()
        self.begin()

    def begin(self) -> None:
        """Forget the round under way: the caches are computed next."""
        self.plan: Plan | None = None  # of the round under way; None for no round
        self.found: Proposal | None = None  # its lookup's match
        self.unread: mx.array | None = None  # the guess drafted beside it
        self.confidence: list[float] = []  # the drafter's, in its drafts
        # Whether the round under way was sent ahead, and whether the next one is.
        self.ahead = self.streamed = False
        self.guesses: dict[str, Guess] = {}

    @property
    def uses_confidence(self) -> bool:
        """Whether the drafter's confidence is of use."""
        return self.controller.uses_confidence

    def streams(self) -> bool:
        """Whether a plain round follows the one under way, whatever its token is, so
        that it can be sent ahead."""
        self.streamed = self._next()[0] == Plan()
        return self.streamed

    def next(self) -> Plan:
        """The plan of the next round."""
        plan, found = self._next()
        if plan.source == LOOKUP:
            plan = replace(plan, drafts=found.tokens[: plan.width - 1])
            self.guesses.pop(LOOKUP, None)  # it is verified instead
        else:
            found = None  # a match that is not used says nothing of the drafter
        self.plan, self.found, self.confidence = plan, found, []
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
        if self.plan.guess:
            self.unread = block[1:]
            return block[:1]
        if self.confidence and len(block) > 1:
            context = len(self.text)
            rows = self.controller.trim(len(block), self.confidence, context)
            if rows == 1:  # the block has become a guess
                self.plan, self.unread = Plan(guess=len(block)), block[1:]
            block = block[:rows]
        return block

    def _next(self):
        most = min(self.stops.left, self.most)
        found = self._find()
        return self.controller.plan(len(self.text), most, found), found

    def _find(self):
        return self.lookup.find(LOOKUP_ROWS - 1) if self.lookup else None

    def report(self, round: Round) -> None:
        """Tell the controller of a round, whose tokens are part of the text by now."""
        seconds = self.watch.lap()
        at = len(self.text) - len(round.tokens)
        if self.plan is not None and round.width:
            if round.width > 1:  # which may be less than planned
                played = replace(self.plan, width=round.width)
            else:
                played = Plan(guess=self.plan.guess)
            kind = self.found.kind if self.found else ""
            # Only between two other single rows does one take its usual time.
            steady = self.ahead and self.streamed
            away = self.watch.away
            self.controller.report(played, round, at, seconds, kind, steady, away)
            if round.drafted and self.confidence:
                judged = self.confidence[: round.judged]
                self.controller.count_confidence(judged, round.accepted)
        self._make_guesses(at)
        self._judge_guesses()
        self.plan, self.found = Plan(), None
        self.ahead, self.streamed = self.streamed, False

    def _make_guesses(self, at):
        """Keep proposals that no pass verifies, to compare them with the text."""
        if self.unread is not None:
            tokens, self.unread = self.unread.tolist(), None
            # A guess that is right so far stays: else only wrong ones would count.
            guess = Guess(DRAFTER, "", at, tokens, self.confidence)
            self.guesses.setdefault(DRAFTER, guess)
        if LOOKUP not in self.guesses and (found := self._find()):
            at = len(self.text)
            self.guesses[LOOKUP] = Guess(LOOKUP, found.kind, at, found.tokens)

    def _judge_guesses(self):
        for source, guess in list(self.guesses.items()):
            if (verdict := guess.verdict(self.text)) is not None:
                self.controller.judge(source, guess.kind, *verdict)
                if guess.confidence:
                    self.controller.count_confidence(guess.confidence, verdict[1])
                del self.guesses[source]
