"""Widen a small pair to the shape, and so the cost, of a large one.

The widened pair computes the same function: matrices are padded with zeros, norms are
rescaled, and extra layers add nothing to the residual stream. Tokens and acceptance are
those of the small pair, and a pass costs what it costs in the large shape. Does not
know the names of shapes (shapes.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.qwen3 import Model, ModelArgs

from ..errors import OptionError
from ..models.drafters.dflash import DFlash
from ..pair import Pair

# Group size of published quantizations.
GROUP = 64
# Projections into the residual stream; zero in an inert layer, so that it adds nothing.
OUTPUT_PROJECTIONS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen3-like model that determine the cost of a pass."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_hidden_layers: int
    vocab_size: int


@dataclass(frozen=True)
class DraftShape:
    """The sizes of a drafter that determine its cost. Its widths are the target's.

    Args:
        num_hidden_layers: Number of layers.
        taps: Number of target layers whose output it reads.
    """

    num_hidden_layers: int
    taps: int


# 188 million parameters: in float32 on a CPU, a pass of one row is limited by memory
# bandwidth, as with a real model on a GPU.
RACE = Shape(1024, 3072, 16, 4, 64, 15, 8192)


class Widening:
    """The index of every small channel, head and layer in the large model.

    Args:
        small, large: Shapes. No size of `large` may be smaller than in `small`, and its
            head_dim must be a multiple.

    Raises:
        OptionError: The large shape cannot hold the small one.
    """

    def __init__(self, small: Shape, large: Shape):
        for name in vars(small):
            if getattr(large, name) < getattr(small, name):
                raise OptionError(
                    f"{name} must be {getattr(small, name)} or more, but is "
                    f"{getattr(large, name)}."
                )
        if large.head_dim % small.head_dim:
            raise OptionError(
                f"head_dim must be a multiple of {small.head_dim}, but is "
                f"{large.head_dim}."
            )
        self.small, self.large = small, large
        group = small.num_attention_heads // small.num_key_value_heads
        groups, rest = divmod(large.num_attention_heads, large.num_key_value_heads)
        # If a large group has fewer query heads than a small one, copies of the
        # key-value head serve the others.
        self.copies = -(-group // groups)
        kv_heads = small.num_key_value_heads * self.copies
        if rest or kv_heads > large.num_key_value_heads:
            raise OptionError(
                f"A shape with {large.num_attention_heads} query heads and "
                f"{large.num_key_value_heads} key-value heads cannot hold a pair with "
                f"{small.num_attention_heads} and {small.num_key_value_heads}."
            )
        heads = range(small.num_attention_heads)
        # A query head is placed with its key-value head, or with a copy of that.
        stride = self.copies * groups
        self.queries = self._rows([h // group * stride + h % group for h in heads])
        self.keys = self._rows(range(kv_heads))
        self.hidden = np.arange(small.hidden_size)
        self.inner = np.arange(small.intermediate_size)

    def _rows(self, heads):
        """The rows of heads in a large projection.

        The rotary pair (j, j + d/2) of a head of size d is placed at (c j, c d/2 + c j)
        of a head of size c d, which rotates at the same rate.
        """
        small, large = self.small.head_dim, self.large.head_dim
        factor, half = large // small, small // 2
        low = np.arange(half) * factor
        inside = np.concatenate([low, large // 2 + low])
        return np.concatenate([head * large + inside for head in heads])

    def norm_weight(
        self, weight: mx.array, size: int, index: np.ndarray, factor: float = 1.0
    ) -> mx.array:
        """The weight of an RMSNorm over `size` channels, times `factor`.

        Zero channels make RMSNorm multiply by sqrt(size / n), so the weight is divided
        by that. It is rounded once, at the end.
        """
        scale = (weight.shape[0] / size) ** 0.5
        scaled = (weight[None].astype(mx.float32) * scale * factor).astype(weight.dtype)
        return place(scaled, np.arange(1), index, (1, size))[0]

    def layer_weights(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The widened weights of a layer; names as in Qwen3 and DFlash layers."""
        big, hd = self.large, self.large.head_dim
        q, kv = big.num_attention_heads * hd, big.num_key_value_heads * hd
        h, i = big.hidden_size, big.intermediate_size
        places = {
            "self_attn.q_proj": (self.queries, self.hidden, (q, h)),
            "self_attn.k_proj": (self.keys, self.hidden, (kv, h)),
            "self_attn.v_proj": (self.keys, self.hidden, (kv, h)),
            "self_attn.o_proj": (self.hidden, self.queries, (h, q)),
            "mlp.gate_proj": (self.inner, self.hidden, (i, h)),
            "mlp.up_proj": (self.inner, self.hidden, (i, h)),
            "mlp.down_proj": (self.hidden, self.inner, (h, i)),
        }
        weights = weights | {
            name: self.copy_heads(weights[name])
            for name in ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
        }
        new = {}
        for name, where in places.items():
            new[f"{name}.weight"] = place(weights[f"{name}.weight"], *where)
        inside = self._rows([0])
        keys = self.norm_weight(weights["self_attn.k_norm.weight"], hd, inside)
        new["self_attn.k_norm.weight"] = keys
        # Attention divides scores by sqrt(head_dim); larger queries compensate.
        factor = (hd / self.small.head_dim) ** 0.5
        queries = self.norm_weight(
            weights["self_attn.q_norm.weight"], hd, inside, factor
        )
        new["self_attn.q_norm.weight"] = queries
        for name in ("input_layernorm", "post_attention_layernorm"):
            new[f"{name}.weight"] = self.norm_weight(
                weights[f"{name}.weight"], h, self.hidden
            )
        return new

    def copy_heads(self, weight: mx.array) -> mx.array:
        """Repeat each head of a key or value projection [heads * head_dim, H]."""
        heads = weight.reshape(self.small.num_key_value_heads, -1, weight.shape[-1])
        return mx.repeat(heads, self.copies, axis=0).reshape(-1, weight.shape[-1])

    def layer_indices(self) -> list[int]:
        """The indices of the small model's layers, spread over the large depth."""
        return spread_evenly(self.small.num_hidden_layers, self.large.num_hidden_layers)


def spread_evenly(n: int, size: int) -> list[int]:
    """n of the indices below `size`, including the first and the last one."""
    return [round(i * (size - 1) / max(1, n - 1)) for i in range(n)]


def place(w: mx.array, rows, columns, shape: tuple[int, int]) -> mx.array:
    """A matrix of zeros with `w` at the given rows and columns."""
    out = mx.zeros(shape, w.dtype)
    out[mx.array(rows)[:, None], mx.array(columns)] = w
    return out


def shape_of(config: dict) -> Shape:
    """The shape of the model in a config.json."""
    return Shape(**{name: config[name] for name in Shape.__dataclass_fields__})


def strip_prefix(weights: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    """The weights whose names start with a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def widen(
    pair: Pair,
    large: Shape,
    draft: DraftShape | None = None,
    *,
    bits: int | None = None,
    draft_bits: int | None = None,
) -> Pair:
    """Make a pair of shape `large` with the function of `pair`.

    The result has the dtypes of the small pair. It is built one layer at a time, so the
    memory peak is the result plus one unquantized layer.

    Args:
        pair: A Qwen3 target with tied embeddings, and a DFlash drafter.
        large: The shape of the new target. Draft layers have its widths.
        draft: Layers and taps of the new drafter; None keeps their numbers.
        bits, draft_bits: 4 or 8 to quantize in groups of GROUP; None does not quantize.
            Zeros remain (almost exactly) zero; other values are rounded, as they are in
            the small pair when it is quantized.

    Raises:
        OptionError: The large shape cannot hold the small one.
    """
    config = pair.target.config
    widening = Widening(shape_of(config), large)
    old = pair.drafter.config
    kept = DraftShape(old.num_hidden_layers, len(old.target_layer_ids))
    draft = draft or kept
    for name in vars(kept):
        low, high = getattr(kept, name), getattr(draft, name)
        if high < low or high > large.num_hidden_layers:
            raise OptionError(
                f"The drafter's {name} must be from {low} to "
                f"{large.num_hidden_layers}, but is {high}."
            )
    config = config | vars(large)
    if bits:
        config |= {"quantization": {"group_size": GROUP, "bits": bits}}
    model = widen_target(pair, widening, bits)
    drafter = widen_drafter(pair.drafter, widening, draft, draft_bits)
    return Pair.of(model, drafter, config)


def widen_target(pair: Pair, widening: Widening, bits: int | None = None) -> Model:
    """The large target: the small one's layers, with inert layers between them."""
    small = dict(tree_flatten(pair.model.parameters()))
    large = widening.large
    model = Model(ModelArgs.from_dict(pair.target.config | vars(large)))
    table = small["model.embed_tokens.weight"]
    body, dtype = model.model, table.dtype
    # Ids beyond the small vocabulary get the mask token's row, so they are not chosen.
    mask = pair.drafter.config.mask_token_id
    rest = mx.repeat(table[mask : mask + 1], large.vocab_size - len(table), axis=0)
    table = mx.concatenate([table, rest])
    shape = (large.vocab_size, large.hidden_size)
    table = place(table, np.arange(large.vocab_size), widening.hidden, shape)
    body.embed_tokens = with_weight(body.embed_tokens, table, bits)
    del table
    small_index = {at: i for i, at in enumerate(widening.layer_indices())}
    for at, layer in enumerate(model.layers):
        if at in small_index:
            old = strip_prefix(small, f"model.layers.{small_index[at]}.")
            set_weights(layer, widening.layer_weights(old).items(), bits)
        else:
            set_weights(layer, inert_weights(layer, dtype), bits)
    norm = widening.norm_weight(
        small["model.norm.weight"], large.hidden_size, widening.hidden
    )
    set_weights(body.norm, {"weight": norm}.items())
    model.eval()
    return model


def widen_drafter(
    drafter: DFlash, widening: Widening, draft: DraftShape, bits: int | None = None
) -> DFlash:
    """The large drafter: the small one's layers, with inert layers between them.

    The taps follow the target's layers to their new indices. The weights of additional
    taps are zero.
    """
    small = dict(tree_flatten(drafter.parameters()))
    large, h = widening.large, widening.large.hidden_size
    taps = choose_taps(widening, drafter.config.target_layer_ids, draft.taps)
    wide = DFlash(
        replace(
            drafter.config,
            hidden_size=h,
            intermediate_size=large.intermediate_size,
            num_hidden_layers=draft.num_hidden_layers,
            num_attention_heads=large.num_attention_heads,
            num_key_value_heads=large.num_key_value_heads,
            head_dim=large.head_dim,
            vocab_size=large.vocab_size,
            num_target_layers=large.num_hidden_layers,
            target_layer_ids=tuple(taps),
        ),
        drafter.window_limit,
    )
    layers = spread_evenly(drafter.config.num_hidden_layers, draft.num_hidden_layers)
    for at, layer in enumerate(wide.layers):
        if at in layers:
            old = strip_prefix(small, f"layers.{layers.index(at)}.")
            set_weights(layer, widening.layer_weights(old).items(), bits)
        else:
            set_weights(layer, inert_weights(layer, drafter.dtype), bits)
    moved = [widening.layer_indices()[tap] for tap in drafter.config.target_layer_ids]
    columns = np.concatenate([taps.index(tap) * h + widening.hidden for tap in moved])
    fc = place(small["fc.weight"], widening.hidden, columns, (h, len(taps) * h))
    wide.fc = with_weight(wide.fc, fc, bits)
    for name in ("hidden_norm", "norm"):
        norm = widening.norm_weight(small[f"{name}.weight"], h, widening.hidden)
        set_weights(wide[name], {"weight": norm}.items())
    wide.eval()
    return wide


def choose_taps(widening: Widening, taps: tuple[int, ...], n: int) -> list[int]:
    """n tapped layers of the large model: those of the small drafter, and others."""
    moved = [widening.layer_indices()[tap] for tap in taps]
    if n == len(moved):
        return moved
    others = [i for i in range(widening.large.num_hidden_layers) if i not in moved]
    added = [others[i] for i in spread_evenly(n - len(moved), len(others))]
    return sorted(moved + added)


def inert_weights(layer: nn.Module, dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Weights of a layer that adds nothing to the residual stream at the usual cost.

    Only the output projections are zero. The other weights are MLX's initial ones,
    uniform in +-1/sqrt(columns), so that values inside the layer are near 1: they do
    not overflow, and are not denormal, which would be slow on a CPU.
    """
    initial = dict(tree_flatten(layer.parameters()))
    for name in list(initial):
        # Popped, because the float32 array beside its cast would triple the memory.
        weight = initial.pop(name).astype(dtype)
        yield name, mx.zeros_like(weight) if name in OUTPUT_PROJECTIONS else weight


def set_weights(
    module: nn.Module, weights: Iterable[tuple[str, mx.array]], bits: int | None = None
) -> None:
    """Set and compute the weights of a module one at a time, then quantize it."""
    for name, weight in weights:
        module.update(tree_unflatten([(name, weight)]))
        mx.eval(weight)
    if bits:
        nn.quantize(module, GROUP, bits)
        mx.eval(module.parameters())
    mx.clear_cache()


def with_weight(
    layer: nn.Linear | nn.Embedding, weight: mx.array, bits: int | None
) -> nn.Module:
    """A layer with this weight, quantized if `bits` is given."""
    set_weights(layer, {"weight": weight}.items())
    if not bits:
        return layer
    layer = layer.to_quantized(GROUP, bits)
    mx.eval(layer.parameters())
    return layer
