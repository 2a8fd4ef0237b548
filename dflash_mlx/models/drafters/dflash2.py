"""The DFlash 2 drafter (https://inco.ai/blog/dflash2/): convolutions and a selector.

Owns what DFlash 2 adds to DFlash: grouped dynamic causal convolutions around attention
and MLP, and a selector that chooses each draft given the token before it. With the
first tap of the convolutions 1, their projections 0 and the successor codebook 0 it is
the DFlash v1 drafter of the same weights. Does not know how a draft is verified.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from .base import Drafts, Request
from .config import DFlash2Config
from .dflash import DFlash
from .layers import Layer, Part, split_rows
from .walk import Walk


class BlockConv(nn.Module):
    """A causal convolution over the rows of a block, before and after a sublayer.

    The kernels are a learned base plus a projection of the sublayer's input. Taps never
    reach out of the block.
    """

    def __init__(self, config: DFlash2Config):
        super().__init__()
        taps, dim = config.conv_kernel_size, config.hidden_size
        self.group = config.conv_group_size
        self.base_kernel = mx.zeros((2, taps, dim))
        self.base_kernel[:, 0] = 1
        outputs = 2 * taps * (dim // self.group)
        self.kernel_projection = nn.Linear(dim, outputs, bias=False)
        # Without training, the convolution is the identity.
        self.kernel_projection.weight = mx.zeros((outputs, dim))

    def kernels(self, x: mx.array) -> mx.array:
        """Kernels [n, B, 2, taps, H / group] from a sublayer's input [n, B, H]."""
        sides, taps, dim = self.base_kernel.shape
        shape = (*x.shape[:-1], sides, taps, dim // self.group)
        return self.kernel_projection(x).reshape(shape)

    def convolve(
        self, x: mx.array, kernels: mx.array, side: int, parts: Sequence[Part]
    ) -> mx.array:
        """Convolve [n, B, H] with the base and dynamic kernels of a side (0: before
        the sublayer, 1: after it)."""
        n, width, dim = x.shape
        rows = x.reshape(n, width, dim // self.group, self.group)
        base = self.base_kernel[side].astype(x.dtype)
        out = mx.zeros_like(rows)
        for tap in range(base.shape[0]):
            shifted = rows
            if tap:
                blocks = [
                    mx.pad(block[:, :-tap], [(0, 0), (tap, 0), (0, 0), (0, 0)])
                    for block in split_rows(rows, parts)
                ]
                shifted = mx.concatenate(blocks, axis=1)
            # Two sums in this order round as the published code does.
            out = out + base[tap].reshape(rows.shape[2:]) * shifted
            out = out + kernels[:, :, side, tap, :, None] * shifted
        return out.reshape(x.shape)


class ConvLayer(Layer):
    """A DFlash layer with a convolution before and after attention and MLP."""

    def __init__(self, config: DFlash2Config):
        super().__init__(config)
        self.attention_conv = BlockConv(config)
        self.mlp_conv = BlockConv(config)

    def __call__(self, h, parts):
        x = self.input_layernorm(h)
        conv, kernels = self.attention_conv, self.attention_conv.kernels(x)
        x = self.self_attn(conv.convolve(x, kernels, 0, parts), parts)
        h = h + conv.convolve(x, kernels, 1, parts)
        x = self.post_attention_layernorm(h)
        conv, kernels = self.mlp_conv, self.mlp_conv.kernels(x)
        x = self.mlp(conv.convolve(x, kernels, 0, parts))
        return h + conv.convolve(x, kernels, 1, parts)


class Selector(nn.Module):
    """Scores the candidates for a draft given the token before it."""

    def __init__(self, config: DFlash2Config):
        super().__init__()
        self.top_k = config.selector_top_k
        rank, reduced = config.selector_rank, config.draft_vocab_size
        shape = config.vocab_size, rank
        self.predecessor_codebook = mx.random.normal(shape) * 0.02
        self.successor_codebook = mx.zeros((reduced or config.vocab_size, rank))
        self.hidden_projection = nn.Linear(
            config.hidden_size, config.selector_rank, bias=False
        )

    def candidates(self, logits: mx.array) -> mx.array:
        """The ids [..., k] of the k best logits [..., V], unordered."""
        return mx.argpartition(logits, -self.top_k, axis=-1)[..., -self.top_k :]

    def candidate_codes(self, hidden: mx.array, candidates: mx.array) -> mx.array:
        """Codes [N, n, k, r] of candidates [N, n, k], scaled by their row's projected
        hidden state."""
        rho = self.hidden_projection(hidden).astype(mx.float32)
        return rho[:, :, None] * self.successor_codebook[candidates].astype(mx.float32)

    def transition_scores(self, before: mx.array, codes: mx.array) -> mx.array:
        """Scores [N, n, k], added to the logits, of candidates with `codes` after the
        tokens `before` [N, n]."""
        code = self.predecessor_codebook[before].astype(mx.float32)
        return (codes @ code[..., None])[..., 0]


class DFlash2(DFlash):
    """A DFlash 2 drafter (the Drafter protocol); arguments as in DFlash."""

    LAYER = ConvLayer

    def __init__(self, config: DFlash2Config, window: int | None = None):
        super().__init__(config, window)
        self.candidate_selector = Selector(config)

    def propose_many(
        self, requests: Sequence[Request], with_confidence: bool = False
    ) -> list[Drafts]:
        """As in base.Batched. Choose the drafts from left to right, each given the one
        before it, a slot of all texts at a time.

        Everything is one graph: no draft is read before the next one is chosen.
        """
        walk = Walk(requests)
        hidden = self.draft_hidden(requests, self.forward_texts(requests))
        hidden = walk.by_slot(hidden)
        logits, selector = self.logits(hidden), self.candidate_selector
        candidates = selector.candidates(logits)
        scores = mx.take_along_axis(logits, candidates, axis=-1).astype(mx.float32)
        codes = selector.candidate_codes(hidden, candidates)
        parts = (walk.split(each) for each in (scores, codes, candidates))
        for before, score, code, ids in zip(walk, *parts, strict=True):
            scored = score + selector.transition_scores(before[None], code)
            walk.choose(self.choose_tokens, scored, ids)
        return [(ids, None) for ids in walk.drafts()]
