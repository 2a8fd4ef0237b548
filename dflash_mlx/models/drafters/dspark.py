"""DSpark drafters (arXiv 2607.05147): DFlash's layers with a Markov head.

Owns what DSpark adds: the Markov head corrects the logits of each draft by the token
chosen before it, and the confidence head estimates whether a draft will be accepted.
Does not know how a draft is verified.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ...cache.context import ContextCache
from .base import Choose
from .config import DSparkConfig
from .dflash import DFlash

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

    def __call__(self, width: int) -> mx.array:
        """The embeddings [width, H] to add to a block's rows. The anchor is clean, at
        the end of the scale (1000); masked rows are at its beginning (0)."""
        at = mx.array([[1000.0], [0.0]])
        powers = mx.arange(FREQUENCIES) / FREQUENCIES
        angles = at * mx.power(10000.0, -powers)
        features = mx.concatenate([mx.sin(angles), mx.cos(angles)], axis=-1)
        clean, masked = self.fc2(nn.silu(self.fc1(features)))
        rows = mx.broadcast_to(masked, (width - 1, masked.size))
        return mx.concatenate([clean[None], rows])


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

    def embed_rows(self, ids: mx.array) -> mx.array:
        """As in DFlash, plus the noise embedding if the checkpoint has one."""
        h = super().embed_rows(ids)
        if "log_snr_embed" in self:
            h = h + self.log_snr_embed(ids.shape[1]).astype(h.dtype)
        return h

    def block_rows(self, width: int) -> int:
        """At least the trained number of rows, unless no row sees a later one."""
        rows = super().block_rows(width)
        return rows if self.config.is_causal else max(rows, self.config.block_size)

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Draft the width - 1 tokens after `anchor` [1], each given the one before it:
        ids [1, width - 1]."""
        return self._draft(anchor, cache, width, choose)[0]

    @property
    def confident(self) -> bool:
        """Whether the checkpoint has a confidence head."""
        return "confidence_head" in self

    def propose_with_confidence(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> tuple[mx.array, mx.array]:
        """As in base.Confident."""
        ids, hidden = self._draft(anchor, cache, width, choose)
        before = mx.concatenate([anchor[None], ids[:, :-1]], axis=1)
        return ids, self.confidence(hidden, before)

    def _draft(self, anchor, cache, width, choose):
        """Drafts [1, width - 1] and the hidden states [1, width - 1, H] of their
        rows."""
        block = self.forward_block(anchor, cache, width)
        hidden = block[:, self.draft_rows(width)]
        logits = self.logits(hidden)
        if "markov_head" not in self:
            return self.choose_tokens(choose, logits, range(1, width)), hidden
        state, drafts, before = self.initial_state(anchor, block), [], anchor
        for i in range(width - 1):
            bias, state = self.markov_head(before, hidden[:, i], state)
            scored = logits[:, i : i + 1] + bias[:, None]
            drafts.append(self.choose_tokens(choose, scored, [i + 1]))
            before = drafts[-1][0]
        return mx.concatenate(drafts, axis=1), hidden

    def initial_state(self, anchors: mx.array, hidden: mx.array) -> mx.array:
        """The Markov head's state [N, r] before the first draft.

        A recurrent head also passes the anchor's row if that row does not draft.

        Args:
            anchors: [N] the anchors' tokens.
            hidden: [N, B, H] the hidden states of whole blocks.
        """
        state = mx.zeros((len(hidden), self.config.markov_rank), hidden.dtype)
        if self.config.first_draft_row:
            _, state = self.markov_head(anchors, hidden[:, 0], state)
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
