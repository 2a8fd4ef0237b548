"""Keeps the passes of an answer within a grammar.

Owns the step between drafting and verifying: the drafts are read, those from the first
illegal one on are removed, and each row gets a mask. A mask changes the target's choice
as a penalty does; nothing else about a round changes. Does not know how a text matches
a grammar (text/matcher.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from ..text.matcher import Matcher


class Constraint:
    """A grammar's masks for the rounds of one answer.

    Args:
        matcher: Follows the answer.

    Attributes:
        masks: [n, words] of the rows of the next verify pass; None if they are free.
    """

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self.masks: mx.array | None = None

    @property
    def active(self) -> bool:
        """Whether the next token is chosen under a mask."""
        return self.matcher.active

    def keep_legal(self, block: mx.array, width: int) -> mx.array:
        """The block [n] up to its first illegal draft; the masks are those of its rows.

        Args:
            block: The anchor, then the drafts. Reading the drafts waits for them.
            width: Tokens that the logits have.

        Raises:
            GrammarError: No token is legal after the anchor.
        """
        drafts = block[1:].tolist() if len(block) > 1 else []
        walk = self.matcher.walk(drafts, width)
        self.masks = None if walk.masks is None else mx.array(walk.masks)
        return block[: walk.legal + 1]

    def forced(self) -> list[int]:
        """The next tokens, where the grammar allows one text only; may be empty.

        They are drafts: the target may split the text into other tokens.
        """
        return self.matcher.forced()

    def accept(self, tokens: list[int]) -> None:
        """Follow a round's tokens.

        Raises:
            GrammarError: One of them is not legal.
        """
        self.matcher.accept(tokens)


def put_first(
    forced: list[int], block: mx.array, confidence: mx.array | None
) -> tuple[mx.array, mx.array | None]:
    """A drafted block [n] whose first drafts are `forced`, as far as it has room, and
    the confidence [n - 1] in its drafts."""
    forced = forced[: len(block) - 1]
    first = mx.array(forced, dtype=block.dtype)
    block = mx.concatenate([block[:1], first, block[1 + len(forced) :]])
    if confidence is not None:
        sure = mx.ones(len(forced), confidence.dtype)
        confidence = mx.concatenate([sure, confidence[len(forced) :]])
    return block, confidence
