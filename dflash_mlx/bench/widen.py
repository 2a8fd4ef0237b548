"""Give a small pair the shape, and so the cost, of a large one; same function.

Zero-padded widths with rescaled norms, inert extra layers: tokens and acceptance stay
those of the small pair while every pass costs what the large shape costs. Residual
networks allow it; the rules stand beside each step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.qwen3 import Model, ModelArgs

from ..errors import OptionError
from ..models.drafters.dflash import DFlash
from ..pair import Pair


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


# 188 million parameters: in float32 one row is bound by memory on a CPU, as one row
# of a real model is on a GPU.
RACE = Shape(1024, 3072, 16, 4, 64, 15, 8192)


class Widening:
    """Where each index of a small layer goes in a large one.

    Args:
        small, large: Shapes; every number of `large` is at least `small`'s, and
            head_dim a multiple of it.
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
        groups = large.num_attention_heads // large.num_key_value_heads
        if groups < group:
            raise OptionError(f"Groups of {group} query heads need {group} or more.")
        # A query head stays with its key-value head.
        heads = range(small.num_attention_heads)
        self.queries = self._rows([h // group * groups + h % group for h in heads])
        self.keys = self._rows(range(small.num_key_value_heads))
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

    def norm(self, weight: mx.array, size: int, index: np.ndarray) -> mx.array:
        """RMSNorm over more, zero, channels multiplies by sqrt(size / n): take it
        back in the weight."""
        scale = (weight.shape[0] / size) ** 0.5
        return place(weight[None] * scale, np.arange(1), index, (1, size))[0]

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
        new = {}
        for name, (rows, columns, shape) in maps.items():
            new[f"{name}.weight"] = place(
                weights[f"{name}.weight"], rows, columns, shape
            )
        inside = self._rows([0])
        keys = self.norm(weights["self_attn.k_norm.weight"], hd, inside)
        new["self_attn.k_norm.weight"] = keys
        # Scores are divided by sqrt(head_dim): queries grow by as much as it does.
        queries = self.norm(weights["self_attn.q_norm.weight"], hd, inside)
        grow = (hd / self.small.head_dim) ** 0.5
        new["self_attn.q_norm.weight"] = queries * grow
        for name in ("input_layernorm", "post_attention_layernorm"):
            new[f"{name}.weight"] = self.norm(weights[f"{name}.weight"], h, self.hidden)
        return new

    def places(self) -> list[int]:
        """New indices of the small model's layers, spread over the depth."""
        many, depth = self.small.num_hidden_layers, self.large.num_hidden_layers
        return [round(i * (depth - 1) / max(1, many - 1)) for i in range(many)]


def place(w: mx.array, rows, columns, shape: tuple[int, int]) -> mx.array:
    """A zero matrix of `shape` with `w` at the given rows and columns."""
    out = np.zeros(shape, dtype=np.float32)
    out[np.ix_(rows, columns)] = np.array(w.astype(mx.float32))
    return mx.array(out).astype(w.dtype)


def shape_of(config: dict) -> Shape:
    """The shape in a config.json or a drafter's config."""
    return Shape(**{name: config[name] for name in Shape.__dataclass_fields__})


def strip(weights: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    """The entries under a prefix, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def widen(pair: Pair, large: Shape) -> Pair:
    """A pair of shape `large` that says what `pair` says, at the large one's cost.

    Args:
        pair: A Qwen3 target with tied embeddings and a DFlash drafter.
        large: The new shape of the target; draft layers get its widths.
    """
    config = pair.target.config
    maps = Widening(shape_of(config), large)
    model = widen_target(pair, maps)
    drafter = widen_drafter(pair.drafter, maps)
    return Pair.of(model, drafter, config | vars(large))


def widen_target(pair: Pair, maps: Widening) -> Model:
    """The large target. Layers between the small one's are inert: their last
    projections are zero, and the rest is random so that it costs what it should."""
    small = dict(tree_flatten(pair.model.parameters()))
    large = maps.large
    model = Model(ModelArgs.from_dict(pair.target.config | vars(large)))
    new = dict(tree_flatten(model.parameters()))
    home = {to: i for i, to in enumerate(maps.places())}
    for to in range(large.num_hidden_layers):
        prefix = f"model.layers.{to}."
        if to in home:
            old = strip(small, f"model.layers.{home[to]}.")
            new |= {prefix + k: v for k, v in maps.layer(old).items()}
        else:
            for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                new[prefix + name] = mx.zeros_like(new[prefix + name])
    new["model.norm.weight"] = maps.norm(
        small["model.norm.weight"], large.hidden_size, maps.hidden
    )
    # Ids beyond the small vocabulary copy the mask token's row: they never win.
    table = small["model.embed_tokens.weight"]
    mask = pair.drafter.config.mask_token_id
    rest = mx.repeat(table[mask : mask + 1], large.vocab_size - len(table), axis=0)
    table = mx.concatenate([table, rest])
    new["model.embed_tokens.weight"] = place(
        table, np.arange(large.vocab_size), maps.hidden, (len(table), large.hidden_size)
    )
    dtype = table.dtype
    model.update(tree_unflatten([(k, v.astype(dtype)) for k, v in new.items()]))
    model.eval()
    mx.eval(model.parameters())
    return model


def widen_drafter(drafter: DFlash, maps: Widening) -> DFlash:
    """The large drafter: same number of layers, taps at the layers' new places."""
    small = dict(tree_flatten(drafter.parameters()))
    old, large = drafter.config, maps.large
    places, h = maps.places(), large.hidden_size
    config = replace(
        old,
        hidden_size=h,
        intermediate_size=large.intermediate_size,
        num_attention_heads=large.num_attention_heads,
        num_key_value_heads=large.num_key_value_heads,
        head_dim=large.head_dim,
        vocab_size=large.vocab_size,
        num_target_layers=large.num_hidden_layers,
        target_layer_ids=tuple(places[tap] for tap in old.target_layer_ids),
    )
    taps = range(len(old.target_layer_ids))
    columns = np.concatenate([tap * h + maps.hidden for tap in taps])
    new = {
        "fc.weight": place(
            small["fc.weight"], maps.hidden, columns, (h, len(taps) * h)
        ),
        "hidden_norm.weight": maps.norm(small["hidden_norm.weight"], h, maps.hidden),
        "norm.weight": maps.norm(small["norm.weight"], h, maps.hidden),
    }
    for i in range(old.num_hidden_layers):
        layer = maps.layer(strip(small, f"layers.{i}."))
        new |= {f"layers.{i}.{k}": v for k, v in layer.items()}
    wide = DFlash(config, drafter.own_window)
    wide.load_weights(list(new.items()))
    wide.eval()
    mx.eval(wide.parameters())
    return wide
