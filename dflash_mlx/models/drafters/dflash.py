"""The DFlash v1 drafter (arXiv 2602.06036, section 3): drafts a block in one pass.

Owns the architecture; attribute names are the checkpoint's. Of the target it knows an
embedding function, a head function and features. Does not know tokens' text, samplers
or the loop.

One forward serves the blocks of several texts (drafting: their rows lie one behind the
other, context is per text) and many blocks of many sequences at once (training: blocks
are batch rows, context is per sequence).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from ...cache.context import ContextCache
from .base import Choose, Drafts, Request
from .config import DFlashConfig
from .fields import GEMMA, SLIDING
from .layers import GemmaLayer, KeysValues, Layer, Part, split_at


class DFlash(nn.Module):
    """A DFlash v1 drafter (the Drafter protocol).

    Args:
        config: The drafter's numbers.
        window: The most committed rows that any layer sees; None sets no limit.

    Attributes:
        window_limit: That limit.
    """

    LAYER = Layer

    def __init__(self, config: DFlashConfig, window: int | None = None):
        super().__init__()
        self.config = config
        self.window_limit = window
        dim, taps = config.hidden_size, len(config.target_layer_ids)
        tapped, eps = config.target_hidden_size or dim, config.rms_norm_eps
        if config.norm_taps:
            self.aux_hidden_norms = [nn.RMSNorm(tapped, eps=eps) for _ in range(taps)]
        self.fc = nn.Linear(taps * tapped, dim, bias=False)
        self.hidden_norm = nn.RMSNorm(dim, eps=eps)
        make = GemmaLayer if config.model_type == GEMMA else self.LAYER
        self.layers = [make(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(dim, eps=eps)
        rows = config.draft_vocab_size or config.vocab_size
        if config.has_embed_tokens:
            self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        if config.has_lm_head:
            self.lm_head = nn.Linear(dim, rows, bias=False)
        if config.draft_vocab_size:
            # Target ids of the reduced vocabulary, as offsets from the draft ids.
            self.d2t = mx.zeros((rows,), mx.int32)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that the drafter computes in, whatever the target's is."""
        return self.norm.weight.dtype

    @property
    def bits(self) -> int | None:
        """Bits of the quantized layers; None if there are none."""
        packed = (m for m in self.modules() if isinstance(m, nn.QuantizedLinear))
        return next((module.bits for module in packed), None)

    @property
    def taps(self) -> tuple[int, ...]:
        """The target layers whose output the drafter reads."""
        return self.config.target_layer_ids

    def layer_visibility(self, layer: int) -> tuple[int | None, bool]:
        """A layer's trained window (None sees all), and whether a block is causal."""
        kinds, causal = self.config.layer_types, self.config.is_causal
        sliding = bool(kinds) and kinds[layer] == SLIDING
        window = self.config.sliding_window if sliding else None
        return window, sliding if causal is None else causal

    def layer_window(self, layer: int) -> int | None:
        """The number of committed rows that a block sees in a layer; None is all.

        A sliding window of W counts the row itself, so the anchor sees W - 1 rows
        before it; a window that starts at the anchor does not.
        """
        sizes, (window, _) = [self.window_limit], self.layer_visibility(layer)
        if window is not None:
            sizes.append(window - (0 if self.config.window_from_anchor else 1))
        return min((size for size in sizes if size is not None), default=None)

    @property
    def window(self) -> int | None:
        """The most committed rows that a layer sees; None is all."""
        sizes = [self.layer_window(layer) for layer in range(len(self.layers))]
        return None if None in sizes else max(sizes)

    @property
    def block_size(self) -> int:
        """Rows to verify: the anchor, and the drafts of a block of trained size."""
        return self.config.block_size + 1 - self.config.first_draft_row

    def bind(self, embed: Callable, head: Callable) -> None:
        """Use the target's embedding and head where the checkpoint has none."""
        self._embed = self.embed_tokens if "embed_tokens" in self else embed
        self._head, self._head_dtype = head, None
        if "lm_head" in self:
            self._head = self.lm_head
        else:  # a target's head is in the dtype of its embedding
            self._head_dtype = embed(mx.zeros((1,), mx.int32)).dtype

    def make_cache(self) -> list[ContextCache]:
        """One empty context per layer."""
        return [ContextCache(self.layer_window(i)) for i in range(len(self.layers))]

    def context(self, features: mx.array, offset: int = 0) -> list[KeysValues]:
        """The context keys and values of every layer [N, n_kv_heads, n, head_dim].

        Args:
            features: [N, n, len(taps) * H] of rows at positions from `offset` on.
        """
        h, contexts = self.fuse(features), []
        for layer in self.layers:
            keys, values = self.layer_context(layer, h)
            contexts.append((layer.self_attn.rope(keys, offset=offset), values))
        return contexts

    def layer_context(self, layer: Layer, h: mx.array) -> KeysValues:
        """A layer's keys, before rope, and values of fused context rows [N, n, H]."""
        if self.config.norm_context:
            h = layer.input_layernorm(h)
        return layer.self_attn.keys_values(h)

    def fuse(self, features: mx.array) -> mx.array:
        """Project features [N, n, len(taps) * H] to context rows [N, n, H]."""
        features = features.astype(self.dtype)
        if self.config.norm_taps:
            norms = self.aux_hidden_norms
            parts = mx.split(features, len(norms), axis=-1)
            parts = [norm(part) for norm, part in zip(norms, parts, strict=True)]
            features = mx.concatenate(parts, axis=-1)
        return self.hidden_norm(self.fc(features))

    def extend(self, features: mx.array, cache: list[ContextCache]) -> None:
        """Add the features [1, n, len(taps) * H] of n committed tokens."""
        self.extend_many([features], [cache])

    def extend_many(
        self, features: Sequence[mx.array], caches: Sequence[list[ContextCache]]
    ) -> None:
        """As in base.Batched."""
        h = self.fuse(mx.concatenate(features, axis=1))
        rows = [each.shape[1] for each in features]
        for layer, *entries in zip(self.layers, *caches, strict=True):
            most = entries[0].window  # of all texts
            seen = [min(n, most or n) for n in rows]
            visible = h
            if seen != rows:
                texts = zip(split_at(h, rows), seen, strict=True)
                visible = mx.concatenate([text[:, -n:] for text, n in texts], axis=1)
            keys, values = (
                split_at(each, seen, axis=2)
                for each in self.layer_context(layer, visible)
            )
            for i, entry in enumerate(entries):
                entry.skip(rows[i] - seen[i])
                rotated = layer.self_attn.rope(keys[i], offset=entry.offset)
                entry.append(rotated, values[i])

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Draft the width - 1 tokens after `anchor` [1]: ids [1, width - 1]."""
        [(ids, _)] = self.propose_many([Request(anchor, cache, width, choose)])
        return ids

    def propose_many(
        self, requests: Sequence[Request], with_confidence: bool = False
    ) -> list[Drafts]:
        """As in base.Batched. A text's drafts are all chosen at once.

        Every token is chosen on its own (section 3.2): the logits are marginals over
        what the other rows might hold.
        """
        hidden = self.draft_hidden(requests, self.forward_texts(requests))
        return [(ids, None) for ids in self.choose_at_once(requests, hidden)]

    def forward_texts(self, requests: Sequence[Request]) -> list[mx.array]:
        """Pass a block of each text through the layers: the anchor, then masked rows.

        The rows of all blocks lie one behind the other. Contexts do not change.

        Returns:
            Normed hidden states [1, B, H] of each block's rows; see `draft_rows`.
        """
        rows = [self.block_rows(request.width) for request in requests]
        ids, texts, masked = [], [], self.config.mask_token_id
        for (anchor, cache, _, _), n in zip(requests, rows, strict=True):
            ids += anchor, mx.full((n - 1,), masked, dtype=anchor.dtype)
            texts.append(self.text_parts(cache, n))
        layers = list(zip(*texts, strict=True))
        return split_at(self.forward_blocks(mx.concatenate(ids)[None], layers), rows)

    def draft_rows(self, width: int) -> slice:
        """The width - 1 rows of a block that draft."""
        first = self.config.first_draft_row
        return slice(first, first + width - 1)

    def draft_hidden(
        self, requests: Sequence[Request], blocks: Sequence[mx.array]
    ) -> mx.array:
        """The rows [1, n, H] of all blocks that draft, one text behind the other."""
        drafting = [
            block[:, self.draft_rows(request.width)]
            for request, block in zip(requests, blocks, strict=True)
        ]
        return mx.concatenate(drafting, axis=1)

    def choose_at_once(
        self, requests: Sequence[Request], hidden: mx.array
    ) -> list[mx.array]:
        """Choose all drafts of each text [1, width - 1] from the rows that draft."""
        sizes = [request.width - 1 for request in requests]
        return [
            self.choose_tokens(request.choose, logits, range(1, request.width))
            for request, logits in zip(
                requests, split_at(self.logits(hidden), sizes), strict=True
            )
        ]

    def block_rows(self, width: int) -> int:
        """The number of rows to pass for width - 1 drafts."""
        return max(1, self.draft_rows(width).stop)

    def forward_blocks(
        self, ids: mx.array, layers: Sequence[Sequence[Part]]
    ) -> mx.array:
        """Normed hidden states [b, n, H] of the rows of all blocks.

        Args:
            ids: [b, n] the blocks: each an anchor, then mask tokens.
            layers: The parts of the rows, for each layer.
        """
        h = self.embed_rows(ids, [part.rows for part in layers[0]])
        for layer, parts in zip(self.layers, layers, strict=True):
            h = layer(h, parts)
        return self.norm(h)

    def embed_rows(self, ids: mx.array, rows: Sequence[int]) -> mx.array:
        """The first layer's input [b, n, H].

        Args:
            ids: [b, n] the blocks.
            rows: The number of rows of each block, n in total.
        """
        h = self._embed(ids).astype(self.dtype)
        scale = self.config.input_embedding_scale
        return h if scale == 1 else h * scale

    def text_parts(self, cache: list[ContextCache], rows: int) -> list[Part]:
        """One text's block of `rows` rows, and what they see, for each layer."""
        parts, masks = [], {}  # by what may differ between layers
        for layer, entry in enumerate(cache):
            window, causal = self.layer_visibility(layer)
            kind = window, causal, entry.window
            if kind not in masks:
                # "causal" is MLX's word for a mask that would grow with the context.
                whole = window is None and causal
                masks[kind] = "causal" if whole else self.block_mask(layer, entry, rows)
            parts.append(Part(rows, entry, cache[0].offset, masks[kind]))
        return parts

    def block_mask(
        self, layer: int, entry: ContextCache, width: int
    ) -> mx.array | None:
        """The rows that each row of one block sees [1, 1, B, m + B]; None is all.

        Distances are between positions, whichever rows the context still holds.
        """
        window, causal = self.layer_visibility(layer)
        if window is None and not causal:
            return None
        keys = entry.positions()
        rows = entry.offset + mx.arange(width)[:, None]
        seen = mx.ones((width, keys.size), mx.bool_)
        if window is not None:
            if self.config.window_from_anchor:
                rows, window = mx.full(rows.shape, entry.offset), window + 1
            seen = rows - keys < window
        block = mx.ones((width, width), mx.bool_)
        block = mx.tril(block) if causal else block
        return mx.concatenate([seen, block], axis=1)[None, None]

    def logits(self, hidden: mx.array) -> mx.array:
        """Logits [..., V] of normed hidden states [..., H]."""
        logits = self._head(hidden.astype(self._head_dtype or self.dtype))
        if self.config.output_multiplier != 1:
            logits = logits * self.config.output_multiplier
        cap = self.config.final_logit_softcapping
        return mx.tanh(logits / cap) * cap if cap else logits

    def choose_tokens(
        self, choose: Choose, logits: mx.array, slots, ids: mx.array | None = None
    ) -> mx.array:
        """Call `choose` with target ids, also for a drafter of a reduced vocabulary.

        Args:
            choose, logits, slots: As in base.Choose.
            ids: [1, n, k] candidates as draft ids; None is the whole vocabulary.
        """
        if "d2t" in self:
            if ids is None:
                ids = mx.broadcast_to(mx.arange(self.d2t.size), logits.shape)
            ids = ids + self.d2t[ids]
        return choose(logits, slots, ids)
