"""What a drafter learns: anchors, the block mask and the loss.

Everything here is a function of one batch (arXiv 2602.06036, section 4.2; the heads of
DFlash 2 and DSpark have their own objectives). Knows nothing of optimisers, files or
the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.nn.utils import checkpoint

from ..models.drafters.config import DFlashConfig
from ..models.drafters.dflash import DFlash
from ..models.drafters.dflash2 import DFlash2
from ..models.drafters.dspark import DSpark
from .answers import Example
from .settings import TrainOptions

# Logits of so many numbers exist at once; more are recomputed in the backward pass.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Batch:
    """Blocks of several sequences.

    Args:
        ids: [N, T] sequences, padded on the right.
        anchors: [N, M] positions of the anchors.
        blocks: [N * M, B] ids of the blocks as they are fed: anchor, then masks.
        labels: [N * M, k] the tokens behind the anchors, one for each slot that
            predicts.
        weights: [N * M, k] 0 where there is nothing to predict.
    """

    ids: mx.array
    anchors: mx.array
    blocks: mx.array
    labels: mx.array
    weights: mx.array


def make_batch(
    examples: list[Example], config: DFlashConfig, options: TrainOptions, rng: Random
) -> Batch:
    """Draw anchors at random from the answers: positions whose token and successor
    the target wrote. Fewer than asked are filled up with weight 0."""
    width, many = config.block_size, options.anchors
    drafts = width - config.drafts_from
    length = min(options.max_length, max(len(e.ids) for e in examples))
    ids = np.zeros((len(examples), length), dtype=np.uint32)
    anchors = np.zeros((len(examples), many), dtype=np.int32)
    blocks = np.full((len(examples), many, width), config.mask_token_id, np.uint32)
    labels = np.zeros((len(examples), many, drafts), dtype=np.uint32)
    weights = np.zeros(labels.shape, dtype=np.float32)
    decay = np.exp(-np.arange(drafts) / options.decay(width))
    for n, example in enumerate(examples):
        row = example.ids[:length]
        ids[n, : len(row)] = row
        ends = {a: end for start, end in example.spans for a in range(start, end - 1)}
        places = [a for a in ends if a < len(row) - 1]
        for m, a in enumerate(rng.sample(places, min(many, len(places)))):
            behind = row[a + 1 : min(a + 1 + drafts, ends[a])]
            anchors[n, m] = a
            blocks[n, m, 0] = row[a]
            labels[n, m, : len(behind)] = behind
            weights[n, m, : len(behind)] = decay[: len(behind)]
    flat = len(examples) * many
    return Batch(
        mx.array(ids),
        mx.array(anchors),
        mx.array(blocks.reshape(flat, width)),
        mx.array(labels.reshape(flat, drafts)),
        mx.array(weights.reshape(flat, drafts)),
    )


def block_mask(
    anchors: mx.array,
    width: int,
    context: int,
    window: int | None = None,
    from_anchor: bool = False,
    causal: bool = False,
) -> mx.array:
    """What each block row sees: context strictly before its anchor, its own block.

    Args:
        anchors: [N, M].
        width: B.
        context: S rows of context.
        window, from_anchor, causal: As in DFlash.layer_sight and DFlashConfig.

    Returns:
        [N, 1, M * B, S + M * B], True where visible.
    """
    n, m = anchors.shape
    places = mx.arange(context)
    seen = mx.repeat(places < anchors[..., None], width, axis=1)  # [N, M * B, S]
    if window is not None:
        rows = anchors[..., None] + mx.arange(width) * (not from_anchor)
        rows = rows.reshape(n, m * width, 1)
        seen = seen & (rows - places < window + from_anchor)
    block = mx.ones((width, width), mx.bool_)
    block = mx.tril(block) if causal else block
    own = mx.eye(m, dtype=mx.bool_)[:, None, :, None] & block[None, :, None, :]
    own = mx.broadcast_to(own.reshape(m * width, -1), (n, m * width, m * width))
    return mx.concatenate([seen, own], axis=-1)[:, None]


def block_hidden(drafter: DFlash, features: mx.array, batch: Batch) -> mx.array:
    """One pass over all blocks: hidden states [N * M, B, H].

    Args:
        features: [N, T, len(taps) * H] of the batch's sequences.
    """
    shape = batch.anchors, batch.blocks.shape[1], features.shape[1]
    from_anchor = drafter.config.window_from_anchor
    contexts, masks = drafter.context(features), {}
    for layer in range(len(contexts)):
        sight = drafter.layer_sight(layer)
        if sight not in masks:
            window, causal = sight
            masks[sight] = block_mask(*shape, window, from_anchor, causal)
    each = [masks[drafter.layer_sight(layer)] for layer in range(len(contexts))]
    return drafter.hidden(batch.blocks, contexts, batch.anchors.reshape(-1), each)


@dataclass(frozen=True)
class Slots:
    """Some blocks' slots, as an objective sees them.

    Args:
        hidden: [n, B, H] normed hidden states, the anchors' among them.
        anchors: [n] their tokens.
        labels: [n, k] the tokens of the slots that predict.
        teacher: [n, k, V] the target's logits for them, or None.
    """

    hidden: mx.array
    anchors: mx.array
    labels: mx.array
    teacher: mx.array | None

    @property
    def drafting(self) -> mx.array:
        """Hidden states [n, k, H] of the slots that predict."""
        return self.hidden[:, self.hidden.shape[1] - self.labels.shape[1] :]

    @property
    def before(self) -> mx.array:
        """The true token before each slot [n, k]: what a walk is taught with."""
        return mx.concatenate([self.anchors[:, None], self.labels[:, :-1]], axis=1)


# What an objective returns: the loss of each slot [n, k], and whether the drafter
# would have drafted its token behind the true ones [n, k].
Judged = tuple[mx.array, mx.array]


def entropy(drafter: DFlash, slots: Slots) -> Judged:
    """DFlash's: cross-entropy of every slot (eq. 4 of the paper)."""
    logits = drafter.logits(slots.drafting).astype(mx.float32)
    return nn.losses.cross_entropy(logits, slots.labels), hits(logits, slots.labels)


def selected(drafter: DFlash2, slots: Slots) -> Judged:
    """DFlash 2's: that, and the selector's cross-entropy over its candidates where
    the token is among them, behind the true token (NeMo AutoModel's recipe)."""
    labels, hidden = slots.labels, slots.drafting
    logits = drafter.logits(hidden).astype(mx.float32)
    selector = drafter.candidate_selector
    ids = selector.candidates(mx.stop_gradient(logits))
    edges = selector.edges(slots.before, selector.pulls(hidden, ids))
    scores = mx.take_along_axis(logits, ids, axis=-1) + edges
    own = (ids == labels[..., None]).astype(mx.float32)
    among = own.sum(-1)
    choice = mx.logsumexp(scores, axis=-1) - (scores * own).sum(-1)
    chosen = mx.take_along_axis(ids, mx.argmax(scores, -1, keepdims=True), axis=-1)
    right = (chosen[..., 0] == labels).astype(mx.float32)
    return nn.losses.cross_entropy(logits, labels) + choice * among, right


def corrected(drafter: DSpark, slots: Slots) -> Judged:
    """DSpark's: 0.1 cross-entropy + 0.9 L1 distance to the target's distribution, and
    the confidence's cross-entropy with what rejection sampling would accept, 1 less
    half that distance (arXiv 2607.05147; DeepSpec's weights)."""
    hidden, before = slots.drafting, slots.before
    logits = drafter.logits(hidden)
    if "markov_head" in drafter:
        state, biases = drafter.start(slots.anchors, slots.hidden), []
        for k in range(before.shape[1]):
            bias, state = drafter.markov_head(before[:, k], hidden[:, k], state)
            biases.append(bias)
        logits = logits + mx.stack(biases, axis=1)
    logits = logits.astype(mx.float32)
    said = mx.softmax(slots.teacher.astype(mx.float32), axis=-1)
    distance = mx.abs(mx.softmax(logits, axis=-1) - said).sum(-1)
    total = 0.1 * nn.losses.cross_entropy(logits, slots.labels) + 0.9 * distance
    if "confidence_head" in drafter:
        accepted = mx.stop_gradient(1 - distance / 2)
        trust = mx.clip(drafter.confidence(hidden, before), 1e-6, 1 - 1e-6)
        total -= accepted * mx.log(trust) + (1 - accepted) * mx.log(1 - trust)
    return total, hits(logits, slots.labels)


OBJECTIVES = {DFlash: entropy, DFlash2: selected, DSpark: corrected}


def hits(logits: mx.array, labels: mx.array) -> mx.array:
    """1 where the best of logits [..., V] is the label."""
    return (mx.argmax(logits, axis=-1) == labels).astype(mx.float32)


def loss(
    drafter: DFlash, features: mx.array, batch: Batch, teacher: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """The objective of the drafter's kind, slots weighted by position.

    Args:
        drafter, features, batch: As in block_hidden.
        teacher: [N * M, k, V] the target's logits for the labels; DSpark's needs them.

    Returns:
        The mean loss, and [k] the share of blocks whose first guesses up to each slot
        are all right.
    """
    hidden = block_hidden(drafter, features, batch)
    objective = OBJECTIVES[type(drafter)]

    rows = max(1, LOGITS_AT_ONCE // (hidden.shape[1] * drafter.config.vocab_size))
    parts = [slice(i, i + rows) for i in range(0, hidden.shape[0], rows)]

    def piece(at: slice) -> Judged:
        told = None if teacher is None else teacher[at]

        def judge(hidden):
            slots = Slots(hidden, batch.blocks[at, 0], batch.labels[at], told)
            losses, right = objective(drafter, slots)
            return losses, mx.stop_gradient(right)

        # With the drafter's parameters named, so that they get their gradients.
        part = judge if len(parts) == 1 else checkpoint(drafter, judge)
        return part(hidden[at])

    pieces = [piece(at) for at in parts]
    losses = mx.concatenate([piece[0] for piece in pieces])
    right = mx.concatenate([piece[1] for piece in pieces])
    full = (batch.weights[:, -1:] > 0).astype(mx.float32)
    kept = (mx.cumprod(right, axis=1) * full).sum(0) / mx.maximum(full.sum(), 1)
    weights = batch.weights
    mean = (losses * weights).sum() / mx.maximum(weights.sum(), 1e-6)
    return mean, mx.stop_gradient(kept)


def teacher_rows(logits: mx.array, anchors: mx.array, drafts: int) -> mx.array:
    """The target's logits for the labels of one sequence's blocks [M, drafts, V].

    Args:
        logits: [1, T, V] of the sequence.
        anchors: [M] positions; the row at p tells the token at p + 1.
    """
    places = anchors[:, None] + mx.arange(drafts)
    return logits[0, mx.minimum(places, logits.shape[1] - 1)]
