"""DSpark drafters (arXiv 2607.05147): DFlash's layers with a Markov head.

Owns what DSpark adds: the Markov head corrects the logits of each draft by the token
chosen before it, and the confidence head estimates whether a draft will be accepted.
Does not know how a draft is verified.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ...cache.context import ContextCache
from .base import Choose, Drafts, Request
from .config import DSparkConfig
from .dflash import DFlash
from .layers import split_at
from .walk import Walk

FREQUENCIES = 64  # in the log-SNR embedding; fixed by training


class MarkovHead(nn.Module):
    """A bias on the logits of a draft (draft ids) from the token before it (target
    id)."""

    def __init__(self, config: DSparkConfig):
        super().__init__()
        rank, hidden = config.markov_rank, config.hidden_size
        rows, bias = config.draft_vocab_size or config.vocab_size, config.markov_bias
        self.kind = config.markov_head_type
        self.markov_w1 = nn.Embedding(config.vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, rows, bias=False)
        # Without training, the head changes nothing.
        self.markov_w2.weight = mx.zeros((rows, rank))
        if self.kind == "gated":
            self.gate_proj = nn.Linear(hidden + rank, rank, bias=bias)
        if self.kind == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden, 3 * rank, bias=bias)

    def __call__(
        self, before: mx.array, hidden: mx.array, state: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Compute the bias for one draft.

        Args:
            before: [N] the token before the draft.
            hidden: [N, H] the normed hidden state of the draft's row.
            state: [N, r] the state after the drafts before it; see `initial_state`.

        Returns:
            The bias [N, V] and the next state.
        """
        code = self.markov_w1(before)
        if self.kind == "gated":
            gate = self.gate_proj(mx.concatenate([hidden, code], axis=-1))
            code = mx.sigmoid(gate) * code
        elif self.kind == "rnn":
            joint = self.joint_proj(mx.concatenate([state, code, hidden], axis=-1))
            gate, new, out = mx.split(joint, 3, axis=-1)
            gate = mx.sigmoid(gate)
            state = gate * state + (1 - gate) * mx.tanh(new)
            code = mx.tanh(out)
        return self.markov_w2(code), state


class ConfidenceHead(nn.Module):
    """Estimates the probability that a draft is accepted."""

    def __init__(self, config: DSparkConfig):
        super().__init__()
        with_markov = config.confidence_head_with_markov and config.markov_rank
        width = config.hidden_size + (config.markov_rank if with_markov else 0)
        self.proj = nn.Linear(width, 1)

    def __call__(self, features: mx.array) -> mx.array:
        return mx.sigmoid(self.proj(features))[..., 0]


class NoiseEmbedding(nn.Module):
    """Embeds the noise level of a block's rows: sinusoids of a log-SNR through an
    MLP."""

    def __init__(self, config: DSparkConfig):
        super().__init__()
        dim = config.hidden_size
        self.fc1 = nn.Linear(2 * FREQUENCIES, dim)
        self.fc2 = nn.Linear(dim, dim)

    def __call__(self, blocks: Sequence[int]) -> mx.array:
        """The embeddings [n, H] to add to the rows of blocks with these numbers of
        rows, n in total. The anchors are clean, at the end of the scale (1000); masked
        rows are at its beginning (0)."""
        at = mx.array([[1000.0], [0.0]])
        powers = mx.arange(FREQUENCIES) / FREQUENCIES
        angles = at * mx.power(10000.0, -powers)
        features = mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)
        clean, masked = self.fc2(nn.silu(self.fc1(features)))
        rows = []
        for width in blocks:
            rows += clean[None], mx.broadcast_to(masked, (width - 1, masked.size))
        return mx.concatenate(rows)


class DSpark(DFlash):
    """A DSpark drafter (the Drafter protocol); arguments as in DFlash."""

    def __init__(self, config: DSparkConfig, window: int | None = None):
        super().__init__(config, window)
        if config.markov_rank:
            self.markov_head = MarkovHead(config)
        if config.enable_confidence_head:
            self.confidence_head = ConfidenceHead(config)
        if config.log_snr_conditioning:
            self.log_snr_embed = NoiseEmbedding(config)

    def embed_rows(self, ids: mx.array, rows: Sequence[int]) -> mx.array:
        """As in DFlash, plus the noise embedding if the checkpoint has one."""
        h = super().embed_rows(ids, rows)
        if "log_snr_embed" in self:
            h = h + self.log_snr_embed(rows).astype(h.dtype)
        return h

    def block_rows(self, width: int) -> int:
        """At least the trained number of rows, unless no row sees a later one."""
        rows = super().block_rows(width)
        return rows if self.config.is_causal else max(rows, self.config.block_size)

    @property
    def confident(self) -> bool:
        """Whether the checkpoint has a confidence head."""
        return "confidence_head" in self

    def propose_with_confidence(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> tuple[mx.array, mx.array]:
        """As in base.Confident."""
        [drafts] = self.propose_many([Request(anchor, cache, width, choose)], True)
        return drafts

    def propose_many(
        self, requests: Sequence[Request], with_confidence: bool = False
    ) -> list[Drafts]:
        """As in base.Batched. Choose the drafts from left to right, each given the one
        before it, a slot of all texts at a time."""
        blocks = self.forward_texts(requests)
        hidden = self.draft_hidden(requests, blocks)
        if "markov_head" in self:
            ids = self._walk(requests, blocks, hidden)
        else:
            ids = self.choose_at_once(requests, hidden)
        if not (with_confidence and self.confident):
            return [(each, None) for each in ids]
        before = [
            mx.concatenate([request.anchor[None], each[:, :-1]], axis=1)
            for request, each in zip(requests, ids, strict=True)
        ]
        confidence = self.confidence(hidden, mx.concatenate(before, axis=1))
        sizes = [request.width - 1 for request in requests]
        return list(zip(ids, split_at(confidence, sizes), strict=True))

    def _walk(self, requests, blocks, hidden):
        """The drafts [1, width - 1] of each text.

        Args:
            requests: As in `propose_many`.
            blocks: [1, B, H] the hidden states of each text's block.
            hidden: [1, n, H] those of the rows that draft.
        """
        walk = Walk(requests)
        hidden = walk.by_slot(hidden)
        logits = self.logits(hidden)
        anchors = [request.anchor for request in requests]
        state = self.initial_state(mx.concatenate(anchors), blocks)
        steps = zip(walk, walk.split(hidden), walk.split(logits), strict=True)
        for before, rows, scores in steps:
            if len(state) > len(before):  # texts without this slot are the last ones
                state = state[: len(before)]
            bias, state = self.markov_head(before, rows.squeeze(0), state)
            walk.choose(self.choose_tokens, scores + bias[None])
        return walk.drafts()

    def initial_state(self, anchors: mx.array, blocks: Sequence[mx.array]) -> mx.array:
        """The Markov head's state [N, r] before the first draft.

        A recurrent head also passes the anchor's row if that row does not draft.

        Args:
            anchors: [N] the anchors' tokens.
            blocks: [n, B, H] the hidden states of whole blocks, N in total.
        """
        state = mx.zeros((len(anchors), self.config.markov_rank), blocks[0].dtype)
        if self.config.first_draft_row:
            hidden = mx.concatenate([block[:, 0] for block in blocks])
            _, state = self.markov_head(anchors, hidden, state)
        return state

    def confidence(self, hidden: mx.array, before: mx.array) -> mx.array:
        """The estimated probability [N, n] that each draft is accepted.

        Args:
            hidden: [N, n, H] the normed hidden states of the drafts' rows.
            before: [N, n] the token before each draft.
        """
        features = hidden
        if self.config.confidence_head_with_markov and self.config.markov_rank:
            code = self.markov_head.markov_w1(before)
            features = mx.concatenate([hidden, code], axis=-1)
        return self.confidence_head(features)
