"""Drafts and context of several texts in one pass of their drafter.

Owns what several texts have in common whatever the drafter is: which of them draft, and
in which order. Does not know how a drafter computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ...cache.context import ContextCache
from .base import Batched, Choose, Confident, Drafter, Drafts, Request


def propose_many(
    drafter: Drafter,
    anchors: Sequence[mx.array],
    caches: Sequence[list[ContextCache]],
    widths: Sequence[int],
    chooses: Sequence[Choose],
    with_confidence: bool = False,
) -> list[Drafts]:
    """Draft the tokens after the anchors of several texts.

    Each text gets the drafts that `propose` gives for it alone; on the CPU, with MLX's
    own products of matrices, bit for bit. Our own drafters pass the rows of all texts
    at once, so that their weights and the target's head are read once; attention and
    choices are per text. Any other drafter is called for one text after the other.

    Args:
        drafter: Of all texts.
        anchors: [1] the last token of each text.
        caches: The drafter's context of each text, which does not change.
        widths: Rows to verify of each text, the anchor included; 1 drafts nothing.
        chooses: What chooses the drafts of each text.
        with_confidence: Also compute the drafter's confidence, if it has any.

    Returns:
        For each text, ids [1, width - 1] and the confidence [1, width - 1] or None.
    """
    requests = [
        Request(*each) for each in zip(anchors, caches, widths, chooses, strict=True)
    ]
    confident = with_confidence and isinstance(drafter, Confident) and drafter.confident
    none = mx.zeros((1, 0), mx.uint32), mx.zeros((1, 0)) if confident else None
    found: list[Drafts] = [none] * len(requests)
    order = [i for i, request in enumerate(requests) if request.width > 1]
    order.sort(key=lambda i: -widths[i])
    wanted = [requests[i] for i in order]
    if not wanted:
        drafts = []
    elif isinstance(drafter, Batched):
        drafts = drafter.propose_many(wanted, confident)
    elif confident:
        drafts = [drafter.propose_with_confidence(*request) for request in wanted]
    else:
        drafts = [(drafter.propose(*request), None) for request in wanted]
    for i, each in zip(order, drafts, strict=True):
        found[i] = each
    return found


def extend_many(
    drafter: Drafter,
    features: Sequence[mx.array],
    caches: Sequence[list[ContextCache]],
) -> None:
    """Add the features [1, n, len(taps) * H] of newly committed tokens of several
    texts, each to its own context.

    Our own drafters project the rows of all texts at once; any other drafter is called
    for one text after the other.

    Args:
        drafter: Of all texts.
        features: Of each text; n may differ, and is 1 or more.
        caches: The drafter's context of each text.
    """
    if isinstance(drafter, Batched):
        if caches:
            drafter.extend_many(features, caches)
        return
    for each, cache in zip(features, caches, strict=True):
        drafter.extend(each, cache)
