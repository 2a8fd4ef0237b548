"""One round of speculative decoding: draft, verify, accept, cut, commit.

This is the loop body of DFlash (arXiv 2602.06036, section 3) with the target's own
choice as the only acceptance rule. Plain decoding is the same round with a block of one
row. Does not know how passes are computed (passes.py), which of them are sent early
(loop.py) or how a round is planned (planner.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from typing import Any, Protocol

import mlx.core as mx

from ..speculation.controller import Plan
from ..speculation.costs import PLAIN
from ..types import Round

# scan(tokens) -> the number of tokens to keep if the text ends in them, else None.
Scan = Callable[[list[int]], "int | None"]


class RoundPasses(Protocol):
    """The three steps of a round that touch the models and their caches."""

    def draft(self, plan: Plan) -> mx.array:
        """The block [n] to verify: the anchor, then n - 1 drafts. Lazy."""

    def verify(
        self, block: mx.array
    ) -> Generator[Any, None, tuple[mx.array, mx.array]]:
        """The target's choice [n] after each row, and the logits [n, V]. Lazy. Yields
        the request for the pass, which other answers may share."""

    def commit(self, tokens: list[int]) -> None:
        """Append the round's tokens to the text, and drop all other rows."""


def play_round(
    passes: RoundPasses, plan: Plan, stops: Stops
) -> Generator[Any, None, Round]:
    """Decode one round.

    Args:
        passes: Run the models.
        plan: Rows to verify and the source of the drafts; a width of 0 is the prefill.
        stops: Decide where the text ends.

    Yields:
        Requests for passes; see requests.py.

    Returns:
        The committed tokens, with counts and logits.
    """
    block = passes.draft(plan)  # [n]: the anchor, then the drafts
    choices, logits = yield from passes.verify(block)  # [n]: the target's choices
    accepted = leading_equal(choices[:-1], block[1:])
    kept = read(choices, accepted)  # the accepted drafts and the bonus token
    tokens = stops.cut(kept)
    passes.commit(tokens)  # the caches keep these rows and no others
    return Round(
        tokens,
        drafted=len(block) - 1,
        accepted=min(len(kept) - 1, len(tokens)),
        width=min(plan.width, len(block)),
        source=plan.source if len(block) > 1 else PLAIN,
        logits=logits[: len(tokens)],
        ended=stops.ended,
    )


def leading_equal(a: mx.array, b: mx.array) -> mx.array:
    """The number [1] of leading items that two arrays [n] share, uint32. Lazy."""
    return mx.cumprod((a == b).astype(mx.uint32)).sum(keepdims=True).astype(mx.uint32)


def read(choices: mx.array, accepted: mx.array) -> list[int]:
    """choices[: accepted + 1] as a list: the only time a round waits for the device."""
    if len(choices) == 1:  # nothing was drafted
        return choices.tolist()
    *tokens, count = mx.concatenate([choices, accepted]).tolist()
    return tokens[: count + 1]


class Stops:
    """Decides where an answer ends: at a stop token, by `scan`, or at a limit.

    Args:
        stop_ids: Tokens that end the text. The one that ends it is its last token.
        scan: The caller's check, called once with the tokens of each round.
        left: Tokens that may still follow.

    Attributes:
        ended: Whether the text has ended.
    """

    def __init__(self, stop_ids: Collection[int], scan: Scan | None, left: int):
        self.stop_ids, self.scan, self.left = stop_ids, scan, left
        self.ended = False

    def cut(self, tokens: list[int]) -> list[int]:
        """The tokens up to the end of the text, which may lie in them. At least one."""
        tokens = tokens[: self.left]
        stop = next((i for i, t in enumerate(tokens) if t in self.stop_ids), None)
        if stop is not None:
            tokens = tokens[: stop + 1]
        keep = self.scan(tokens) if self.scan else None
        if keep is not None:
            tokens = tokens[:keep]
        self.left -= len(tokens)
        self.ended = stop is not None or keep is not None or self.left == 0
        return tokens
