"""The training objective: anchors, the block mask, and the loss of each kind.

Owns everything that is computed from one batch (arXiv 2602.06036, section 4.2; the
heads of DFlash 2 and DSpark have losses of their own). Does not know optimizers, files
or the target.
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
from ..models.drafters.layers import Part
from ..models.drafters.training_attention import Sight
from .answers import Example
from .options import TrainOptions

# Maximum number of logits in memory at once. A larger loss is computed in parts, and
# the backward pass computes the logits of each part again.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Batch:
    """M blocks of B rows in each of N sequences of T tokens; k slots predict.

    Args:
        ids: [N, T] sequences, padded on the right.
        anchors: [N, M] positions of the anchors.
        blocks: [N * M, B] input ids of the blocks: the anchor, then mask tokens.
        labels: [N * M, k] the tokens that the slots should predict.
        weights: [N * M, k] loss weights; 0 for a slot without a label.
    """

    ids: mx.array
    anchors: mx.array
    blocks: mx.array
    labels: mx.array
    weights: mx.array


def make_batch(
    examples: list[Example], config: DFlashConfig, options: TrainOptions, rng: Random
) -> Batch:
    """Draw anchors at random from the answers.

    An anchor is a token of an answer that is not its last. A sequence with fewer than
    `options.anchors` of them gets blocks of weight 0 for the rest.

    Args:
        examples: The sequences.
        config: The drafter's block size, mask token and first predicting slot.
        options: Number of anchors, maximum length and decay of the weights.
        rng: Source of the random anchors.
    """
    width, count = config.block_size, options.anchors
    drafts = width - config.first_draft_row
    length = min(options.max_length, max(len(e.ids) for e in examples))
    ids = np.zeros((len(examples), length), dtype=np.uint32)
    anchors = np.zeros((len(examples), count), dtype=np.int32)
    blocks = np.full((len(examples), count, width), config.mask_token_id, np.uint32)
    labels = np.zeros((len(examples), count, drafts), dtype=np.uint32)
    weights = np.zeros(labels.shape, dtype=np.float32)
    decay = np.exp(-np.arange(drafts) / options.decay(width))
    for n, example in enumerate(examples):
        row = example.ids[:length]
        ids[n, : len(row)] = row
        ends = {a: end for start, end in example.spans for a in range(start, end - 1)}
        positions = [a for a in ends if a < len(row) - 1]
        for m, a in enumerate(rng.sample(positions, min(count, len(positions)))):
            following = row[a + 1 : min(a + 1 + drafts, ends[a])]
            anchors[n, m] = a
            blocks[n, m, 0] = row[a]
            labels[n, m, : len(following)] = following
            weights[n, m, : len(following)] = decay[: len(following)]
    flat = len(examples) * count
    return Batch(
        mx.array(ids),
        mx.array(anchors),
        mx.array(blocks.reshape(flat, width)),
        mx.array(labels.reshape(flat, drafts)),
        mx.array(weights.reshape(flat, drafts)),
    )


def block_sight(
    anchors: mx.array,
    width: int,
    context: int,
    window: int | None = None,
    from_anchor: bool = False,
    causal: bool = False,
) -> Sight:
    """What block rows see: the context before the anchor, and their own block.

    Args:
        anchors: [N, M] positions.
        width: B, the rows of a block.
        context: S, the rows of context.
        window: Sliding window of a row, the row included; None is no window.
        from_anchor: The window of every row ends at the anchor and excludes it.
        causal: Hide the later rows of the block.
    """
    positions = mx.arange(context)
    seen = positions < anchors[..., None, None]  # [N, M, 1, S]
    if window is not None:
        offsets = mx.arange(1 if from_anchor else width)[:, None]
        rows = anchors[..., None, None] + offsets
        seen = seen & (rows - positions < window + from_anchor)
    return Sight(seen, causal)


def block_hidden(drafter: DFlash, features: mx.array, batch: Batch) -> mx.array:
    """Hidden states of all blocks, from one pass.

    Args:
        drafter: The drafter.
        features: [N, T, len(taps) * H] the target's features of `batch.ids`.
        batch: The blocks.

    Returns:
        [N * M, B, H].
    """
    shape = batch.anchors, batch.blocks.shape[1], features.shape[1]
    from_anchor = drafter.config.window_from_anchor
    contexts, masks = drafter.context(features), {}
    for layer in range(len(contexts)):
        sight = drafter.layer_visibility(layer)
        if sight not in masks:
            window, causal = sight
            masks[sight] = block_sight(*shape, window, from_anchor, causal)
    rows, anchors = batch.blocks.shape[1], batch.anchors.reshape(-1)
    parts = [
        [Part(rows, context, anchors, masks[drafter.layer_visibility(layer)])]
        for layer, context in enumerate(contexts)
    ]
    return drafter.forward_blocks(batch.blocks, parts)


@dataclass(frozen=True)
class Slots:
    """The rows of n blocks, from which an objective computes losses.

    Args:
        hidden: [n, B, H] hidden states after the last norm, the anchor's included.
        anchors: [n] tokens of the anchors.
        labels: [n, k] the tokens to predict.
        teacher: [n, k, V] the target's logits for the labels, or None.
    """

    hidden: mx.array
    anchors: mx.array
    labels: mx.array
    teacher: mx.array | None

    @property
    def predicting(self) -> mx.array:
        """Hidden states [n, k, H] of the slots that predict."""
        return self.hidden[:, self.hidden.shape[1] - self.labels.shape[1] :]

    @property
    def previous(self) -> mx.array:
        """The true token before each slot [n, k], for heads that read it."""
        return mx.concatenate([self.anchors[:, None], self.labels[:, :-1]], axis=1)


# What an objective returns: the loss of each slot [n, k], and 1 where the drafter,
# given the true tokens before the slot, drafts its label [n, k].
SlotLosses = tuple[mx.array, mx.array]


def dflash_loss(drafter: DFlash, slots: Slots) -> SlotLosses:
    """Cross-entropy of every slot (eq. 4 of the paper)."""
    logits = drafter.logits(slots.predicting).astype(mx.float32)
    losses = nn.losses.cross_entropy(logits, slots.labels)
    return losses, top_is_label(logits, slots.labels)


def dflash2_loss(drafter: DFlash2, slots: Slots) -> SlotLosses:
    """DFlash's loss, plus the selector's cross-entropy over its candidates.

    The selector's term is 0 where the label is not a candidate. It is given the true
    token before each slot (the recipe of NeMo AutoModel).
    """
    labels, hidden = slots.labels, slots.predicting
    logits = drafter.logits(hidden).astype(mx.float32)
    selector = drafter.candidate_selector
    ids = selector.candidates(mx.stop_gradient(logits))
    edges = selector.transition_scores(
        slots.previous, selector.candidate_codes(hidden, ids)
    )
    scores = mx.take_along_axis(logits, ids, axis=-1) + edges
    is_label = (ids == labels[..., None]).astype(mx.float32)
    has_label = is_label.sum(-1)
    selection = mx.logsumexp(scores, axis=-1) - (scores * is_label).sum(-1)
    chosen = mx.take_along_axis(ids, mx.argmax(scores, -1, keepdims=True), axis=-1)
    right = (chosen[..., 0] == labels).astype(mx.float32)
    return nn.losses.cross_entropy(logits, labels) + selection * has_label, right


def dspark_loss(drafter: DSpark, slots: Slots) -> SlotLosses:
    """0.1 cross-entropy + 0.9 L1 distance to the target's distribution + confidence.

    The last term is the cross-entropy between the confidence head and the probability
    that rejection sampling accepts the draft, 1 - distance / 2 (arXiv 2607.05147, with
    the weights of DeepSpec).
    """
    hidden, before = slots.predicting, slots.previous
    logits = drafter.logits(hidden)
    if "markov_head" in drafter:
        state, biases = drafter.initial_state(slots.anchors, [slots.hidden]), []
        for k in range(before.shape[1]):
            bias, state = drafter.markov_head(before[:, k], hidden[:, k], state)
            biases.append(bias)
        logits = logits + mx.stack(biases, axis=1)
    logits = logits.astype(mx.float32)
    target = mx.softmax(slots.teacher.astype(mx.float32), axis=-1)
    distance = mx.abs(mx.softmax(logits, axis=-1) - target).sum(-1)
    total = 0.1 * nn.losses.cross_entropy(logits, slots.labels) + 0.9 * distance
    if "confidence_head" in drafter:
        accepted = mx.stop_gradient(1 - distance / 2)
        p = mx.clip(drafter.confidence(hidden, before), 1e-6, 1 - 1e-6)
        total -= accepted * mx.log(p) + (1 - accepted) * mx.log(1 - p)
    return total, top_is_label(logits, slots.labels)


OBJECTIVES = {DFlash: dflash_loss, DFlash2: dflash2_loss, DSpark: dspark_loss}


def top_is_label(logits: mx.array, labels: mx.array) -> mx.array:
    """1 where the largest of logits [..., V] is the label's, else 0."""
    return (mx.argmax(logits, axis=-1) == labels).astype(mx.float32)


def loss(
    drafter: DFlash, features: mx.array, batch: Batch, teacher: mx.array | None = None
) -> tuple[mx.array, mx.array]:
    """The loss of a batch: the mean over its slots, weighted by position.

    Args:
        drafter, features, batch: As in block_hidden.
        teacher: [N * M, k, V] the target's logits for the labels; only DSpark uses
            them.

    Returns:
        The loss, and [k] the share of the blocks in which all drafts up to a slot are
        right.
    """
    hidden = block_hidden(drafter, features, batch)
    objective = OBJECTIVES[type(drafter)]

    rows = max(1, LOGITS_AT_ONCE // (hidden.shape[1] * drafter.config.vocab_size))
    parts = [slice(i, i + rows) for i in range(0, hidden.shape[0], rows)]

    def part_losses(part: slice) -> SlotLosses:
        part_teacher = None if teacher is None else teacher[part]

        def compute(hidden):
            anchors, labels = batch.blocks[part, 0], batch.labels[part]
            losses, right = objective(
                drafter, Slots(hidden, anchors, labels, part_teacher)
            )
            return losses, mx.stop_gradient(right)

        # checkpoint() takes the drafter so that its parameters get their gradients.
        function = compute if len(parts) == 1 else checkpoint(drafter, compute)
        return function(hidden[part])

    losses, right = map(mx.concatenate, zip(*map(part_losses, parts), strict=True))
    full = (batch.weights[:, -1:] > 0).astype(mx.float32)
    acceptance = (mx.cumprod(right, axis=1) * full).sum(0) / mx.maximum(full.sum(), 1)
    weights = batch.weights
    mean = (losses * weights).sum() / mx.maximum(weights.sum(), 1e-6)
    return mean, mx.stop_gradient(acceptance)


def teacher_logits(logits: mx.array, anchors: mx.array, drafts: int) -> mx.array:
    """The target's logits for the labels of one sequence's blocks.

    Args:
        logits: [1, T, V] of the sequence; row p predicts the token at p + 1.
        anchors: [M] positions.
        drafts: k, the labels of a block.

    Returns:
        [M, k, V].
    """
    rows = anchors[:, None] + mx.arange(drafts)
    return logits[0, mx.minimum(rows, logits.shape[1] - 1)]
