"""Give a small pair the shape, and so the cost, of a large one; same function.

Zero-padded widths with rescaled norms, inert extra layers: tokens and acceptance stay
those of the small pair while every pass costs what the large shape costs. Residual
networks allow it; the rules stand beside each step. Knows numbers; which names stand
for which is shapes.py's.
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

# What published quantizations use.
GROUP = 64
# An inert layer's last projections; they are zero, so that it adds nothing.
LAST = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class Shape:
    """The numbers of a Qwen3-like model that set the cost of a pass."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_hidden_layers: int
    vocab_size: int


@dataclass(frozen=True)
class DraftShape:
    """What sets the cost of a draft besides the target's widths, which it has too.

    Args:
        num_hidden_layers: Of the drafter.
        taps: Target layers that it reads.
    """

    num_hidden_layers: int
    taps: int


# 188 million parameters: in float32 one row is bound by memory on a CPU, as one row
# of a real model is on a GPU.
RACE = Shape(1024, 3072, 16, 4, 64, 15, 8192)


class Widening:
    """Where each index of a small layer goes in a large one.

    Args:
        small, large: Shapes; every number of `large` is at least `small`'s, and
            head_dim a multiple of it.

    Raises:
        OptionError: The large shape cannot hold the small one.
    """

    def __init__(self, small: Shape, large: Shape):
        for name in vars(small):
            if getattr(large, name) < getattr(small, name):
                raise OptionError(f"{name} cannot shrink to {getattr(large, name)}.")
        if large.head_dim % small.head_dim:
            raise OptionError(
                f"head_dim {large.head_dim} is no multiple of {small.head_dim}."
            )
        self.small, self.large = small, large
        group = small.num_attention_heads // small.num_key_value_heads
        groups, rest = divmod(large.num_attention_heads, large.num_key_value_heads)
        # Where a large group holds fewer query heads than a small one, copies of the
        # key-value head serve the others.
        self.copies = -(-group // groups)
        kv_heads = small.num_key_value_heads * self.copies
        if rest or kv_heads > large.num_key_value_heads:
            raise OptionError(
                f"{large.num_attention_heads} query heads on "
                f"{large.num_key_value_heads} key-value heads cannot hold "
                f"{small.num_attention_heads} on {small.num_key_value_heads}."
            )
        heads = range(small.num_attention_heads)
        # A query head stays with its key-value head, or a copy of it.
        copy, inside = self.copies * groups, [h % group for h in heads]
        self.queries = self._rows([h // group * copy + inside[h] for h in heads])
        self.keys = self._rows(range(kv_heads))
        self.hidden = np.arange(small.hidden_size)
        self.inner = np.arange(small.intermediate_size)

    def _rows(self, heads):
        """Rows of heads in a projection. The rotary pair (j, j + d/2) of a head of d
        goes to (c j, c d/2 + c j) of one of c d, which turns at the same rate."""
        small, large = self.small.head_dim, self.large.head_dim
        factor, half = large // small, small // 2
        low = np.arange(half) * factor
        inside = np.concatenate([low, large // 2 + low])
        return np.concatenate([head * large + inside for head in heads])

    def norm(
        self, weight: mx.array, size: int, index: np.ndarray, grow: float = 1.0
    ) -> mx.array:
        """RMSNorm over more, zero, channels multiplies by sqrt(size / n): take it
        back in the weight, which may `grow` besides; rounded once, at the end."""
        scale = (weight.shape[0] / size) ** 0.5
        scaled = (weight[None].astype(mx.float32) * scale * grow).astype(weight.dtype)
        return place(scaled, np.arange(1), index, (1, size))[0]

    def layer(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """A layer's weights, widened; names as in Qwen3 and DFlash layers."""
        big, hd = self.large, self.large.head_dim
        q, kv = big.num_attention_heads * hd, big.num_key_value_heads * hd
        h, i = big.hidden_size, big.intermediate_size
        maps = {
            "self_attn.q_proj": (self.queries, self.hidden, (q, h)),
            "self_attn.k_proj": (self.keys, self.hidden, (kv, h)),
            "self_attn.v_proj": (self.keys, self.hidden, (kv, h)),
            "self_attn.o_proj": (self.hidden, self.queries, (h, q)),
            "mlp.gate_proj": (self.inner, self.hidden, (i, h)),
            "mlp.up_proj": (self.inner, self.hidden, (i, h)),
            "mlp.down_proj": (self.hidden, self.inner, (h, i)),
        }
        weights = weights | {
            name: self.copied(weights[name])
            for name in ("self_attn.k_proj.weight", "self_attn.v_proj.weight")
        }
        new = {}
        for name, where in maps.items():
            new[f"{name}.weight"] = place(weights[f"{name}.weight"], *where)
        inside = self._rows([0])
        keys = self.norm(weights["self_attn.k_norm.weight"], hd, inside)
        new["self_attn.k_norm.weight"] = keys
        # Scores are divided by sqrt(head_dim): queries grow by as much as it does.
        grow = (hd / self.small.head_dim) ** 0.5
        queries = self.norm(weights["self_attn.q_norm.weight"], hd, inside, grow)
        new["self_attn.q_norm.weight"] = queries
        for name in ("input_layernorm", "post_attention_layernorm"):
            new[f"{name}.weight"] = self.norm(weights[f"{name}.weight"], h, self.hidden)
        return new

    def copied(self, weight: mx.array) -> mx.array:
        """Keys' or values' projection [heads * head_dim, H], each head in copies."""
        heads = weight.reshape(self.small.num_key_value_heads, -1, weight.shape[-1])
        return mx.repeat(heads, self.copies, axis=0).reshape(-1, weight.shape[-1])

    def places(self) -> list[int]:
        """New indices of the small model's layers, spread over the depth."""
        return spread(self.small.num_hidden_layers, self.large.num_hidden_layers)


def spread(many: int, among: int) -> list[int]:
    """`many` of the indices below `among`, the first and the last one included."""
    return [round(i * (among - 1) / max(1, many - 1)) for i in range(many)]


def place(w: mx.array, rows, columns, shape: tuple[int, int]) -> mx.array:
    """A zero matrix of `shape` with `w` at the given rows and columns, in its dtype."""
    out = mx.zeros(shape, w.dtype)
    out[mx.array(rows)[:, None], mx.array(columns)] = w
    return out


def shape_of(config: dict) -> Shape:
    """The shape in a config.json or a drafter's config."""
    return Shape(**{name: config[name] for name in Shape.__dataclass_fields__})


def strip(weights: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    """The entries under a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def widen(
    pair: Pair,
    large: Shape,
    draft: DraftShape | None = None,
    *,
    bits: int | None = None,
    draft_bits: int | None = None,
) -> Pair:
    """A pair of shape `large` that says what `pair` says, at the large one's cost.

    Built a layer at a time, in the small pair's dtypes: memory peaks at the result,
    and one layer of it unquantized.

    Args:
        pair: A Qwen3 target with tied embeddings and a DFlash drafter.
        large: The new shape of the target; draft layers get its widths.
        draft: The new depth of the drafter; None keeps layers and taps.
        bits, draft_bits: 4 or 8 to quantize to, in groups of GROUP. What is zero stays
            so, to the bit or as good as that; the rest is rounded, as in the small
            pair quantized.

    Raises:
        OptionError: The shape cannot hold the small one.
    """
    config = pair.target.config
    maps = Widening(shape_of(config), large)
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
    model = widen_target(pair, maps, bits)
    return Pair.of(model, widen_drafter(pair.drafter, maps, draft, draft_bits), config)


def widen_target(pair: Pair, maps: Widening, bits: int | None = None) -> Model:
    """The large target, with inert layers between the small one's."""
    small = dict(tree_flatten(pair.model.parameters()))
    large = maps.large
    model = Model(ModelArgs.from_dict(pair.target.config | vars(large)))
    table = small["model.embed_tokens.weight"]
    body, dtype = model.model, table.dtype
    # Ids beyond the small vocabulary copy the mask token's row: they never win.
    mask = pair.drafter.config.mask_token_id
    rest = mx.repeat(table[mask : mask + 1], large.vocab_size - len(table), axis=0)
    table = mx.concatenate([table, rest])
    shape = (large.vocab_size, large.hidden_size)
    table = place(table, np.arange(large.vocab_size), maps.hidden, shape)
    body.embed_tokens = packed(body.embed_tokens, table, bits)
    del table
    home = {to: i for i, to in enumerate(maps.places())}
    for to, layer in enumerate(model.layers):
        if to in home:
            old = strip(small, f"model.layers.{home[to]}.")
            settle(layer, maps.layer(old).items(), bits)
        else:
            settle(layer, inert(layer, dtype), bits)
    norm = maps.norm(small["model.norm.weight"], large.hidden_size, maps.hidden)
    settle(body.norm, {"weight": norm}.items())
    model.eval()
    return model


def widen_drafter(
    drafter: DFlash, maps: Widening, draft: DraftShape, bits: int | None = None
) -> DFlash:
    """The large drafter, with inert layers between the small one's; its taps at the
    layers' new places, and more of them that nobody listens to."""
    small = dict(tree_flatten(drafter.parameters()))
    large, h = maps.large, maps.large.hidden_size
    taps = more_taps(maps, drafter.config.target_layer_ids, draft.taps)
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
        drafter.own_window,
    )
    home = spread(drafter.config.num_hidden_layers, draft.num_hidden_layers)
    for to, layer in enumerate(wide.layers):
        if to in home:
            old = strip(small, f"layers.{home.index(to)}.")
            settle(layer, maps.layer(old).items(), bits)
        else:
            settle(layer, inert(layer, drafter.dtype), bits)
    moved = [maps.places()[tap] for tap in drafter.config.target_layer_ids]
    columns = np.concatenate([taps.index(tap) * h + maps.hidden for tap in moved])
    fc = place(small["fc.weight"], maps.hidden, columns, (h, len(taps) * h))
    wide.fc = packed(wide.fc, fc, bits)
    for name in ("hidden_norm", "norm"):
        norm = maps.norm(small[f"{name}.weight"], h, maps.hidden)
        settle(wide[name], {"weight": norm}.items())
    wide.eval()
    return wide


def more_taps(maps: Widening, taps: tuple[int, ...], many: int) -> list[int]:
    """Where small taps are in the large model, and others up to so many."""
    moved = [maps.places()[tap] for tap in taps]
    if many == len(moved):
        return moved
    others = [i for i in range(maps.large.num_hidden_layers) if i not in moved]
    return sorted(moved + [others[i] for i in spread(many - len(moved), len(others))])


def inert(layer: nn.Module, dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """Weights of a layer that adds nothing, but costs what it should.

    All but the last projections are as MLX starts them, uniform in +-1/sqrt(columns):
    what a layer computes from normed rows is then near 1, far from what overflows and
    from the denormal numbers that a CPU is slow with.
    """
    drawn = dict(tree_flatten(layer.parameters()))
    for name in list(drawn):
        # What was drawn is float32: kept beside its cast it would triple the layer.
        weight = drawn.pop(name).astype(dtype)
        yield name, mx.zeros_like(weight) if name in LAST else weight


def settle(
    module: nn.Module, weights: Iterable[tuple[str, mx.array]], bits: int | None = None
) -> None:
    """Give a module its weights, computed one at a time, and quantize it."""
    for name, weight in weights:
        module.update(tree_unflatten([(name, weight)]))
        mx.eval(weight)
    if bits:
        nn.quantize(module, GROUP, bits)
        mx.eval(module.parameters())
    mx.clear_cache()


def packed(
    layer: nn.Linear | nn.Embedding, weight: mx.array, bits: int | None
) -> nn.Module:
    """A layer with this weight, quantized if there are bits."""
    settle(layer, {"weight": weight}.items())
    if not bits:
        return layer
    layer = layer.to_quantized(GROUP, bits)
    mx.eval(layer.parameters())
    return layer
