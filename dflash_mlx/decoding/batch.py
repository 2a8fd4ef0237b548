"""Several answers at once: their drafts in one pass, their blocks in one pass.

Drives generators that yield requests (requests.py), each an answer of its own with its
own caches, sampling and stops; what one says does not depend on the others. Knows
neither how a pass is shared (models/targets, models/drafters) nor what the answers'
other items are: rounds, or an engine's responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..models.drafters.batched import propose_many
from ..speculation.company import Company
from .requests import ChunkPassed, DraftRequest, Request, VerifyRequest


@dataclass(eq=False)
class Member:
    """An answer in a batch.

    Args:
        steps: Yields requests, and between them items for the caller.
        rows_left: Rows of its prompt that are not passed yet, about.

    Attributes:
        request: What it waits for; None if it can go on.
        error: The exception that ended it, or None.
        ended: Whether it has ended.
    """

    steps: Iterator[Any]
    rows_left: int = 0
    request: Request | None = None
    error: BaseException | None = None
    ended: bool = False
    prefilling: bool = field(default=True, init=False)

    def advance(self) -> list[Any]:
        """Go on to the next request or to the end; return the items on the way."""
        items: list[Any] = []
        self.request = None
        try:
            for item in self.steps:
                if isinstance(item, ChunkPassed):
                    self.rows_left = item.rows_left
                    return items
                self.prefilling = False
                if isinstance(item, Request):
                    self.request = item
                    return items
                items.append(item)
        except Exception as error:
            self.error = error
        self.ended = True
        return items


class Batch:
    """Answers of one pair that share their passes.

    Attributes:
        members: The answers, in the order in which they joined.
        company: Pass it to the generators of the answers.
    """

    def __init__(self):
        self.company = Company()
        self.members: list[Member] = []

    def add(self, steps: Iterator[Any], rows: int) -> Member:
        """Let an answer join. Nothing of it is computed before the next turn.

        Args:
            steps: From loop.decode_steps or an engine.
            rows: Rows of its prompt that have to be passed.
        """
        member = Member(steps, rows)
        self.members.append(member)
        return member

    def remove(self, member: Member) -> None:
        """Let an answer leave, wherever it is; its caches stay sound."""
        self.members.remove(member)
        member.steps.close()

    def turn(self) -> list[tuple[Member, list[Any]]]:
        """Take every answer one round further, and one prompt one chunk.

        Answers that have ended leave.

        Returns:
            For each member its items; its `ended` and `error` tell how it stands.
        """
        out: dict[Member, list[Any]] = {member: [] for member in self.members}
        waiting = [each for each in self.members if not each.prefilling]
        if prompt := self._next_prompt():
            waiting.append(prompt)
        while waiting:
            for member in waiting:
                out[member] += member.advance()
            asked = [each for each in waiting if each.request is not None]
            waiting = [e for e in asked if isinstance(e.request, DraftRequest)]
            draft_together([each.request for each in waiting])
        verify_together([e.request for e in self.members if e.request is not None])
        self.members = [each for each in self.members if not each.ended]
        return list(out.items())

    def _next_prompt(self):
        """The member whose prompt goes on: the one with the fewest rows left."""
        prompts = [each for each in self.members if each.prefilling]
        return min(prompts, key=lambda each: each.rows_left, default=None)


def draft_together(requests: list[DraftRequest]) -> None:
    """Fulfil requests for drafts from the drafter in one pass. An answer that needs no
    drafter fulfils its own."""
    if len(requests) < 2:
        return  # the answer drafts itself
    asked = [(each, each.passes.ask_drafter(each.plan)) for each in requests]
    asked = [(each, needs) for each, needs in asked if needs is not None]
    if not asked:
        return
    wanted = [each for each, _ in asked]
    anchors, caches, widths, chooses = zip(*(needs for _, needs in asked), strict=True)
    confident = any(each.with_confidence for each in wanted)
    drafter = wanted[0].passes.drafter
    found = propose_many(drafter, anchors, caches, widths, chooses, confident)
    for each, drafts in zip(wanted, found, strict=True):
        each.drafted = each.passes.draft(each.plan, each.with_confidence, drafts)


def verify_together(requests: list[VerifyRequest]) -> None:
    """Fulfil requests for passes in one pass of the target."""
    if len(requests) < 2:
        return  # the answer sends its pass itself
    passes = [request.passes for request in requests]
    target, taps = passes[0].target, max(each.taps for each in passes)
    if not target.can_verify_many(taps):
        return
    blocks = [request.block.astype(mx.uint32)[None] for request in requests]
    with ExitStack() as changing:
        for each in passes:
            changing.enter_context(each.changing_caches())
        computed = target.verify_many(blocks, [e.cache.target for e in passes], taps)
    for request, found in zip(requests, computed, strict=True):
        request.sent = request.passes.verify(
            request.block, request.masks, computed=found
        )
    mx.async_eval([request.sent.choices for request in requests])
