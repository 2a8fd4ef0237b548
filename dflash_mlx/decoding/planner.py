"""The course of one decoding, round by round: what is planned, and what came of it.

Owns the text so far, the plans, the lookup, guesses under way and the stopwatch; says
to the controller what rounds show. Knows no sampling and no stop; loop.py does the
rounds, decoding.py the passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..speculation.controller import (
    LOOKUP_ROWS,
    Controller,
    Fixed,
    Plan,
)
from ..speculation.costs import DRAFTER, LOOKUP, Stopwatch
from ..speculation.lookup import Lookup, Proposal
from ..types import Round
from .passes import Decoding, PendingPass


@dataclass
class Progress:
    """How far a decoding has come.

    Args:
        text: All tokens, of the prompt and after.
        given: How many of them are not this decoding's.
        left: How many may follow.
        ended: None follows.
        outside: A function of the caller runs.
    """

    text: list[int]
    given: int
    left: int
    ended: bool = False
    outside: bool = False

    def take(self, tokens: list[int], ended: bool) -> None:
        """Go on by a round's tokens."""
        self.text += tokens
        self.left -= len(tokens)
        self.ended = ended or self.left == 0


@dataclass
class Guess:
    """Drafts that are compared with what follows, and not verified.

    Args:
        source: Whose they are.
        kind: Of a lookup's match.
        at: Where in the text the first one belongs.
        tokens: The drafts.
        confidence: The drafter's, in each.
    """

    source: str
    kind: str
    at: int
    tokens: list[int]
    confidence: Sequence[float] = ()

    def verdict(self, text: list[int]) -> tuple[int, int] | None:
        """How many drafts could be kept and how many were, once the text tells."""
        said = text[self.at : self.at + len(self.tokens)]
        for i, (ours, theirs) in enumerate(zip(self.tokens, said, strict=False)):
            if ours != theirs:
                return len(self.tokens), i
        return (len(said), len(said)) if len(said) == len(self.tokens) else None


class Planner:
    """Plans the rounds of one decoding and reports them.

    Args:
        controller: Who chooses.
        course: The text.
        most: Rows that a block may have.
        lookup: Proposes from the text itself, where it may.
    """

    def __init__(
        self,
        controller: Controller | Fixed,
        course: Progress,
        most: int,
        lookup: Lookup | None = None,
    ):
        self.controller, self.course, self.most = controller, course, most
        self.lookup = lookup
        self.watch = Stopwatch()
        self.begin()

    def begin(self) -> None:
        """The caches are computed next, from the start; that is no round."""
        self.plan: Plan | None = None  # of the round under way
        self.found: Proposal | None = None  # its match, if the lookup drafts
        self.unread: mx.array | None = None  # the drafter's guess beside it
        self.confidence: list[float] = []  # the drafter's, in its drafts
        # Whether the round under way was sent ahead, and the one after it is.
        self.ahead = self.streamed = False
        self.guesses: dict[str, Guess] = {}

    def streams(self) -> bool:
        """Whether a single row follows the one under way, whatever the token between
        them: it can be sent ahead then."""
        self.streamed = self._next()[0] == Plan()
        return self.streamed

    def draft(self, state: Decoding) -> mx.array:
        """Start the next round: its block [n], an anchor and drafts. Nothing is read
        here."""
        plan, found = self._next()
        anchor = mx.array(self.course.text[-1:], dtype=mx.uint32)
        drafts = None
        if plan.source == LOOKUP:
            drafts = mx.array(found.tokens[: plan.width - 1], dtype=mx.uint32)
            self.guesses.pop(LOOKUP, None)  # it is verified instead
        else:
            found = None  # what is not taken says nothing of the drafter
        rows = max(plan.width, plan.guess)
        block = state.draft(anchor, rows, drafts, self.controller.uses_confidence)
        if plan.guess:
            self.unread, block = block[1:], block[:1]
        self.plan, self.found, self.confidence = plan, found, []
        return block

    def send(self, state: Decoding, block: mx.array) -> PendingPass:
        """Verify a block, or so much of it as its drafter's confidence is worth."""
        if state.confidence is not None:
            # A head that overflows says nothing.
            self.confidence = mx.nan_to_num(state.confidence).tolist()
        if self.confidence and len(block) > 1:
            at = len(self.course.text)
            rows = self.controller.trim(len(block), self.confidence, at)
            if rows == 1:  # it has become a guess
                self.plan, self.unread = Plan(guess=len(block)), block[1:]
            block = block[:rows]
        return state.send(block)

    def _next(self):
        most = min(self.course.left, self.most)
        found = self._find()
        return self.controller.plan(len(self.course.text), most, found), found

    def _find(self):
        return self.lookup.find(LOOKUP_ROWS - 1) if self.lookup else None

    def report(self, flight: PendingPass, tokens: list[int], accepted: int) -> Round:
        """The round that a flight was, its tokens being part of the text by now."""
        seconds, width = self.watch.lap(), flight.width
        planned = self.plan or Plan()  # it may have come out narrower
        plan = replace(planned, width=width) if width > 1 else Plan(guess=planned.guess)
        logits, accepted = flight.logits[: len(tokens)], min(accepted, len(tokens))
        drafted = max(width - 1, 0)
        round = Round(tokens, drafted, accepted, width, plan.source, logits)
        at = len(self.course.text) - len(tokens)
        if self.plan is not None and width:
            kind = self.found.kind if self.found else ""
            # Only between two others does a single row take the time of one.
            steady = self.ahead and self.streamed
            away = self.watch.away
            self.controller.report(plan, round, at, seconds, kind, steady, away)
            if drafted and self.confidence:
                self.controller.count_confidence(
                    self.confidence[: round.judged], accepted
                )
        self._guess(at)
        self._judge()
        self.plan, self.found = Plan(), None
        self.ahead, self.streamed = self.streamed, False
        return round

    def _guess(self, at):
        """Have proposals compared that nobody verifies."""
        if self.unread is not None:
            tokens, self.unread = self.unread.tolist(), None
            # One that is right so far is not dropped: only wrong ones would count.
            guess = Guess(DRAFTER, "", at, tokens, self.confidence)
            self.guesses.setdefault(DRAFTER, guess)
        if LOOKUP not in self.guesses and (found := self._find()):
            at = len(self.course.text)
            self.guesses[LOOKUP] = Guess(LOOKUP, found.kind, at, found.tokens)

    def _judge(self):
        for source, guess in list(self.guesses.items()):
            if (verdict := guess.verdict(self.course.text)) is not None:
                self.controller.judge(source, guess.kind, *verdict)
                if guess.confidence:
                    self.controller.count_confidence(guess.confidence, verdict[1])
                del self.guesses[source]
