"""What a drafter learns: anchors, the block mask and the loss.

Everything here is a function of one batch (arXiv 2602.06036, section 4.2). Knows
nothing of optimisers, files or the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..models.drafters.config import DFlashConfig
from ..models.drafters.dflash import DFlash
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
        labels: [N * M, B - 1] the tokens behind the anchors.
        weights: [N * M, B - 1] 0 where there is nothing to predict.
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
    length = min(options.max_length, max(len(e.ids) for e in examples))
    ids = np.zeros((len(examples), length), dtype=np.uint32)
    anchors = np.zeros((len(examples), many), dtype=np.int32)
    blocks = np.full((len(examples), many, width), config.mask_token_id, np.uint32)
    labels = np.zeros((len(examples), many, width - 1), dtype=np.uint32)
    weights = np.zeros(labels.shape, dtype=np.float32)
    decay = np.exp(-np.arange(width - 1) / options.decay())
    for n, example in enumerate(examples):
        row = example.ids[:length]
        ids[n, : len(row)] = row
        ends = {a: end for start, end in example.spans for a in range(start, end - 1)}
        places = [a for a in ends if a < len(row) - 1]
        for m, a in enumerate(rng.sample(places, min(many, len(places)))):
            behind = row[a + 1 : min(a + width, ends[a])]
            anchors[n, m] = a
            blocks[n, m, 0] = row[a]
            labels[n, m, : len(behind)] = behind
            weights[n, m, : len(behind)] = decay[: len(behind)]
    flat = len(examples) * many
    return Batch(
        mx.array(ids),
        mx.array(anchors),
        mx.array(blocks.reshape(flat, width)),
        mx.array(labels.reshape(flat, width - 1)),
        mx.array(weights.reshape(flat, width - 1)),
    )


def block_mask(anchors: mx.array, width: int, context: int) -> mx.array:
    """What each block row sees: context strictly before its anchor, its own block.

    Args:
        anchors: [N, M].
        width: B.
        context: S rows of context.

    Returns:
        [N, 1, M * B, S + M * B], True where visible.
    """
    n, m = anchors.shape
    seen = mx.arange(context)[None, None] < anchors[..., None]  # [N, M, S]
    own = mx.broadcast_to(mx.eye(m, dtype=mx.bool_)[None], (n, m, m))
    rows = mx.concatenate([seen, mx.repeat(own, width, axis=2)], axis=-1)
    return mx.repeat(rows, width, axis=1)[:, None]


def block_hidden(drafter: DFlash, features: mx.array, batch: Batch) -> mx.array:
    """One pass over all blocks: hidden states [N * M, B, H].

    Args:
        features: [N, T, len(taps) * H] of the batch's sequences.
    """
    mask = block_mask(batch.anchors, batch.blocks.shape[1], features.shape[1])
    contexts = drafter.context(features)
    masks = [mask] * len(contexts)
    return drafter.hidden(batch.blocks, contexts, batch.anchors.reshape(-1), masks)


def loss(
    drafter: DFlash, features: mx.array, batch: Batch
) -> tuple[mx.array, mx.array]:
    """Position-weighted cross-entropy (eq. 4 of the paper), and the acceptance.

    Returns:
        The mean loss, and [B - 1] the share of blocks whose first k guesses are all
        right, k = 1..B - 1.
    """
    hidden = block_hidden(drafter, features, batch)[:, 1:]

    def losses(hidden, labels):
        logits = drafter.logits(hidden).astype(mx.float32)
        right = (mx.argmax(logits, axis=-1) == labels).astype(mx.float32)
        return nn.losses.cross_entropy(logits, labels), right

    rows = max(1, LOGITS_AT_ONCE // (hidden.shape[1] * drafter.config.vocab_size))
    part = losses if rows >= hidden.shape[0] else mx.checkpoint(losses)
    pieces = [
        part(hidden[i : i + rows], batch.labels[i : i + rows])
        for i in range(0, hidden.shape[0], rows)
    ]
    entropy = mx.concatenate([piece[0] for piece in pieces])
    right = mx.concatenate([piece[1] for piece in pieces])
    full = (batch.weights[:, -1:] > 0).astype(mx.float32)
    kept = (mx.cumprod(right, axis=1) * full).sum(0) / mx.maximum(full.sum(), 1)
    weights = batch.weights
    mean = (entropy * weights).sum() / mx.maximum(weights.sum(), 1e-6)
    return mean, mx.stop_gradient(kept)
