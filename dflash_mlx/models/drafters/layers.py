"""Draft layers: Qwen3's or Gemma 4's, with attention that also sees the context.

One forward serves the blocks of several texts (drafting: their rows lie one behind the
other, context is per text) and many blocks of many sequences at once (training: blocks
are batch rows, context is per sequence). Does not know checkpoints, caches or how
tokens are drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.qwen3 import MLP
from mlx_lm.models.rope_utils import initialize_rope

from ...cache.context import ContextCache
from .training_attention import Sight, attend

if TYPE_CHECKING:
    from .config import DFlashConfig

KeysValues = tuple[mx.array, mx.array]


class Part(NamedTuple):
    """Rows of a pass that see the same context, and what they see in one layer.

    To draft, each text has a part: its block. A batch of training is one part.

    Args:
        rows: B, the rows of a block.
        context: The cache of the only block's context; or keys and values
            [N, n_kv_heads, S, head_dim] that all M blocks of a sequence share.
        offset: Position of each block's first row: an int, or [N * M].
        mask: What the rows see. With a cache [1, 1, B, S + B], True where a row sees a
            key; "causal" for the rows before it; None is all. With keys and values a
            Sight.
    """

    rows: int
    context: KeysValues | ContextCache
    offset: int | mx.array
    mask: mx.array | str | Sight | None = None


def split_rows(x: mx.array, parts: Sequence[Part], axis: int = 1) -> list[mx.array]:
    """Divide the rows of a pass among its parts."""
    return split_at(x, [part.rows for part in parts], axis)


def split_at(x: mx.array, sizes: Sequence[int], axis: int = 1) -> list[mx.array]:
    """Divide an array into consecutive pieces of these sizes."""
    if len(sizes) == 1:
        return [x]
    return mx.split(x, list(accumulate(sizes[:-1])), axis)


class Attention(nn.Module):
    """Attention of block rows over the context and their own block.

    Context rows pass only k_proj, v_proj, k_norm and rope. Heads may have a learned
    sink (a key without a value that every row sees) and a gate on their output.
    """

    def __init__(self, config: DFlashConfig):
        super().__init__()
        dim, hd = config.hidden_size, config.head_dim
        self.n_heads = config.num_attention_heads
        self.n_kv_heads = config.num_key_value_heads
        self.scale = hd**-0.5
        self.gate = config.attention_gate
        rows = self.n_heads * hd * (2 if self.gate == "per-element" else 1)
        self.q_proj = nn.Linear(dim, rows, bias=False)
        self.k_proj = nn.Linear(dim, self.n_kv_heads * hd, bias=False)
        self.v_proj = nn.Linear(dim, self.n_kv_heads * hd, bias=False)
        self.o_proj = nn.Linear(self.n_heads * hd, dim, bias=False)
        self.q_norm = nn.RMSNorm(hd, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(hd, eps=config.rms_norm_eps)
        if self.gate == "per-head":
            self.g_proj = nn.Linear(dim, self.n_heads, bias=False)
        self.attention_sink_bias = None
        if config.attention_sink_bias:
            self.attention_sink_bias = mx.zeros((self.n_heads,))
        self.rope = initialize_rope(
            int(hd * config.partial_rotary_factor),
            base=config.rope_theta,
            traditional=not config.rope_is_neox_style,
            scaling_config=config.rope_scaling,
            max_position_embeddings=config.max_position_embeddings,
        )

    def keys_values(self, x: mx.array) -> KeysValues:
        """Keys and values [b, n_kv_heads, n, head_dim] of rows [b, n, H], before
        rope."""
        b, n, _ = x.shape
        keys = self.k_norm(self.k_proj(x).reshape(b, n, self.n_kv_heads, -1))
        values = self.v_proj(x).reshape(b, n, self.n_kv_heads, -1)
        return keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)

    def __call__(self, x: mx.array, parts: Sequence[Part]) -> mx.array:
        """Attend.

        Args:
            x: [b, n, H] the rows of all parts, one part behind the other.
            parts: What they see.
        """
        b, n, _ = x.shape
        queries, gate = self.queries_and_gate(x)
        keys, values = self.keys_values(x)
        if len(parts) == 1:
            out = self.attend_part(queries, keys, values, parts[0])
        else:
            rows = (split_rows(each, parts, axis=2) for each in (queries, keys, values))
            out = [self.attend_part(*each) for each in zip(*rows, parts, strict=True)]
            out = mx.concatenate(out, axis=2)
        out = out.transpose(0, 2, 1, 3).reshape(b, n, self.n_heads, -1)
        if gate is not None:
            out = out * gate
        return self.o_proj(out.reshape(b, n, -1))

    def attend_part(
        self, queries: mx.array, keys: mx.array, values: mx.array, part: Part
    ) -> mx.array:
        """The heads' outputs [b, n_heads, n, head_dim] for the rows of one part.

        Args:
            queries, keys, values: [b, heads, n, head_dim], before rope.
            part: What the rows see.
        """
        queries = self.rope(queries, offset=part.offset)
        keys = self.rope(keys, offset=part.offset)
        sinks = self.sinks(queries.dtype)
        if not isinstance(part.context, ContextCache):
            return attend(
                queries, keys, values, part.context, part.mask, self.scale, sinks
            )
        keys, values = part.context.followed_by(keys, values)
        return scaled_dot_product_attention(
            queries,
            keys,
            values,
            cache=None,
            scale=self.scale,
            mask=part.mask,
            sinks=sinks,
        )

    def sinks(self, dtype: mx.Dtype) -> mx.array | None:
        """The heads' sinks in `dtype`; some checkpoints keep them in float32."""
        if self.attention_sink_bias is None:
            return None
        return self.attention_sink_bias.astype(dtype)

    def queries_and_gate(self, x: mx.array) -> tuple[mx.array, mx.array | None]:
        """Normed queries [b, n_heads, n, head_dim] of rows [b, n, H], and the factors
        of the heads' outputs [b, n, n_heads, head_dim or 1], or None."""
        b, n, _ = x.shape
        queries, gate = self.q_proj(x).reshape(b, n, self.n_heads, -1), None
        if self.gate == "per-element":
            queries, gate = mx.split(queries, 2, axis=-1)
            gate = mx.sigmoid(gate)
        elif self.gate == "per-head":
            gate = nn.softplus(self.g_proj(x).astype(mx.float32))
            gate = gate.astype(x.dtype)[..., None]
        return self.q_norm(queries).transpose(0, 2, 1, 3), gate


class Layer(nn.Module):
    """A Qwen3 layer whose attention also sees the context."""

    def __init__(self, config: DFlashConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(
            config.hidden_size, eps=config.rms_norm_eps
        )

    def __call__(self, h, parts):
        h = h + self.self_attn(self.input_layernorm(h), parts)
        return h + self.mlp(self.post_attention_layernorm(h))


class GemmaAttention(Attention):
    """Attention of Gemma 4's full-attention layers.

    Scores are not scaled, and values are normed. Where the checkpoint has no v_proj,
    values come from k_proj.
    """

    def __init__(self, config: DFlashConfig):
        super().__init__(config)
        self.scale = 1.0
        self.eps = config.rms_norm_eps
        if config.attention_k_eq_v:
            del self.v_proj

    def keys_values(self, x: mx.array) -> KeysValues:
        """As in Attention."""
        b, n, _ = x.shape
        projected = self.k_proj(x).reshape(b, n, self.n_kv_heads, -1)
        values = projected
        if "v_proj" in self:
            values = self.v_proj(x).reshape(b, n, self.n_kv_heads, -1)
        values = mx.fast.rms_norm(values, None, self.eps)
        keys = self.k_norm(projected)
        return keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)


class GemmaMLP(MLP):
    """Gemma's MLP: GELU in place of SiLU."""

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(nn.gelu_approx(self.gate_proj(x)) * self.up_proj(x))


class GemmaLayer(nn.Module):
    """A full-attention layer of Gemma 4: norms before and after attention and MLP, and
    a scale on the output."""

    def __init__(self, config: DFlashConfig):
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = GemmaAttention(config)
        self.mlp = GemmaMLP(dim, config.intermediate_size)
        self.input_layernorm = nn.RMSNorm(dim, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(dim, eps=eps)
        self.pre_feedforward_layernorm = nn.RMSNorm(dim, eps=eps)
        self.post_feedforward_layernorm = nn.RMSNorm(dim, eps=eps)
        self.layer_scalar = mx.ones((1,))

    def __call__(self, h, parts):
        x = self.self_attn(self.input_layernorm(h), parts)
        h = h + self.post_attention_layernorm(x)
        x = self.mlp(self.pre_feedforward_layernorm(h))
        return (h + self.post_feedforward_layernorm(x)) * self.layer_scalar
