"""The DFlash v1 drafter (arXiv 2602.06036, section 3): a block in one pass.

Owns the architecture and z-lab's checkpoint format. Attribute names are the
checkpoint's. Of the target it knows an embedding, a head and features.

A forward is the same code for one block (drafting) and for many blocks of many
sequences at once (training): blocks are batch rows, context is per sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import ConfigError
from .base import Choose, ContextCache
from .checkpoint import Config, sane
from .layers import KeysValues, Layer

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class DFlashConfig:
    """A DFlash v1 head; the names are the checkpoint's.

    Without `layer_types` every layer is full. `is_causal` holds for every layer where
    it is given; without it full layers see their whole block, sliding ones are
    causal in it.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    max_position_embeddings: int
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    num_target_layers: int
    rope_theta: float
    rope_scaling: dict[str, Any] | None = None
    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    is_causal: bool | None = None
    rope_is_neox_style: bool = True
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float | None = None

    ARCHITECTURES = ("DFlashDraftModel",)
    # Fields that the second generation keeps in dflash_config.
    NESTED = ("block_size", "mask_token_id", "target_layer_ids")
    # Fields of other drafters; with them the same weights compute something else.
    REFUSED = (
        "conv_kernel_size",
        "conv_group_size",
        "selector_rank",
        "selector_top_k",
        "markov_rank",
        "causal",
        "use_swa",
        "attention_sink_bias",
    )

    PACKAGINGS = ("speculators_model_type", "speculators_config", "projector_type")

    @classmethod
    def read(cls, folder: Path) -> DFlashConfig:
        """Read a z-lab config.json, of the first generation (block_size and
        rope_theta at the root) or the second (nested, rope_parameters).

        Raises:
            ConfigError: A needed field is absent, contradictory or of a wrong kind,
                or the config asks for a drafter that this version cannot run.
        """
        config = Config(folder)
        cls.refuse(config)
        return cls(**cls.fields_of(config))

    @classmethod
    def fields_of(cls, config: Config) -> dict[str, Any]:
        """The fields of a config, checked."""
        heads = config.get("num_attention_heads", int)
        sane(config, "num_attention_heads", heads, heads > 0)
        width = config.get("block_size", int)
        sane(config, "block_size", width, width > 1)
        taps = config.get("target_layer_ids", list)
        numbers = all(type(tap) is int for tap in taps)
        sane(config, "target_layer_ids", taps, bool(taps) and numbers)
        hidden = config.get("hidden_size", int)
        layers = config.get("num_hidden_layers", int)
        sane(config, "num_hidden_layers", layers, layers > 0)
        rope = config.get("rope_parameters", dict, None)
        rope = rope or config.get("rope_scaling", dict, None)
        theta = (rope or {}).get("rope_theta")
        if theta is None:
            theta = config.get("rope_theta", float)
        return dict(
            hidden_size=hidden,
            intermediate_size=config.get("intermediate_size", int),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads", int, heads),
            head_dim=config.get("head_dim", int, hidden // heads),
            vocab_size=config.get("vocab_size", int),
            rms_norm_eps=config.get("rms_norm_eps", float),
            max_position_embeddings=config.get("max_position_embeddings", int, 40960),
            block_size=width,
            mask_token_id=config.get("mask_token_id", int),
            target_layer_ids=tuple(taps),
            num_target_layers=config.get("num_target_layers", int),
            rope_theta=float(theta),
            rope_scaling=rope if scales(rope) else None,
            rope_is_neox_style=config.get("rope_is_neox_style", bool, True),
            **attention_of(config, layers),
            input_embedding_scale=config.get("input_embedding_scale", float, 1.0),
            output_multiplier=config.get("output_multiplier", float, 1.0),
            final_logit_softcapping=config.get("final_logit_softcapping", float, None),
        )

    @classmethod
    def refuse(cls, config: Config) -> None:
        """Raise ConfigError, by name, for what computes something else."""
        architectures = config.root.get("architectures") or []
        if architectures and not set(cls.ARCHITECTURES) & set(architectures):
            raise ConfigError(
                f"{config.path} describes {', '.join(architectures)}, which this "
                "version cannot run."
            )
        for field in cls.PACKAGINGS:
            if field in config.root or field in config.nested:
                raise ConfigError(
                    f"{config.path} has {field}, a packaging that this version cannot "
                    "run."
                )
        for field in cls.REFUSED:
            if config.nested.get(field) or config.root.get(field):
                raise ConfigError(
                    f"{config.path} sets {field}, which this version cannot run in a "
                    f"{cls.ARCHITECTURES[0]}."
                )

    def to_json(self) -> dict[str, Any]:
        """config.json in z-lab's second generation."""
        fields = asdict(self)
        nested = {name: fields.pop(name) for name in self.NESTED}
        rope = fields.pop("rope_scaling") or {"rope_type": "default"}
        if not self.layer_types:
            del fields["layer_types"]
        return {
            "architectures": [self.ARCHITECTURES[0]],
            "model_type": "qwen3",
            **{name: value for name, value in fields.items() if value is not None},
            "rope_parameters": rope | {"rope_theta": self.rope_theta},
            "dflash_config": nested,
        }


def scales(rope: dict[str, Any] | None) -> bool:
    """Whether rope parameters change more than the base."""
    rope = rope or {}
    return (rope.get("rope_type") or rope.get("type") or "default") != "default"


def attention_of(config: Config, layers: int) -> dict[str, Any]:
    """layer_types, sliding_window and is_causal of a config.

    Raises:
        ConfigError: A layer's type is unknown, there are not as many as layers, or a
            sliding layer has no window.
    """
    kinds = config.get("layer_types", list, [])
    known = set(kinds) <= {FULL, SLIDING}
    sane(config, "layer_types", kinds, known and len(kinds) in (0, layers))
    window = config.get("sliding_window", int, None)
    if SLIDING in kinds:
        sane(config, "sliding_window", window, window is not None and window > 1)
    return {
        "layer_types": tuple(kinds),
        "sliding_window": window if SLIDING in kinds else None,
        "is_causal": config.get("is_causal", bool, None),
    }


class DFlash(nn.Module):
    """A DFlash v1 drafter (the Drafter protocol).

    Args:
        config: Its numbers.
        window: See only this many of the last committed rows; None sees all.
    """

    LAYER = Layer

    def __init__(self, config: DFlashConfig, window: int | None = None):
        super().__init__()
        self.config = config
        self.own_window = window
        dim = config.hidden_size
        self.fc = nn.Linear(len(config.target_layer_ids) * dim, dim, bias=False)
        self.hidden_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.layers = [self.LAYER(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)

    @property
    def taps(self) -> tuple[int, ...]:
        """Target layers whose output it reads."""
        return self.config.target_layer_ids

    def layer_window(self, layer: int) -> int | None:
        """Committed rows that a layer's block can see; None is all.

        A sliding window of W counts the row itself, so slot 0 sees W - 1 before it.
        """
        sizes = [self.own_window]
        if self.config.layer_types and self.config.layer_types[layer] == SLIDING:
            sizes.append(self.config.sliding_window - 1)
        return min((size for size in sizes if size is not None), default=None)

    @property
    def window(self) -> int | None:
        """Committed rows that some layer can see; None is all."""
        sizes = [self.layer_window(layer) for layer in range(len(self.layers))]
        return None if None in sizes else max(sizes)

    @property
    def block_size(self) -> int:
        """Rows it was trained for."""
        return self.config.block_size

    def bind(self, embed: Callable, head: Callable) -> None:
        """Borrow the target's embedding and head."""
        self._embed, self._head = embed, head

    def make_cache(self) -> list[ContextCache]:
        """One empty context a layer."""
        return [ContextCache(self.layer_window(i)) for i in range(len(self.layers))]

    def context(self, features: mx.array, offset: int = 0) -> list[KeysValues]:
        """Every layer's context keys and values [N, n_kv_heads, n, head_dim].

        Args:
            features: [N, n, len(taps) * H] of rows at positions from `offset` on.
        """
        h = self.hidden_norm(self.fc(features))
        return [layer.self_attn.keys_values(h, offset) for layer in self.layers]

    def extend(self, features: mx.array, cache: list[ContextCache]) -> None:
        """Add the features [1, n, len(taps) * H] of n committed tokens."""
        h = self.hidden_norm(self.fc(features))
        for layer, entry in zip(self.layers, cache, strict=True):
            unseen = max(0, h.shape[1] - (entry.window or h.shape[1]))
            entry.skip(unseen)
            rows = layer.self_attn.keys_values(h[:, unseen:], entry.offset)
            entry.append(*rows)

    def hidden(
        self,
        ids: mx.array,
        contexts: list[KeysValues | None],
        offset: int | mx.array,
        masks: Sequence[mx.array | None],
    ) -> mx.array:
        """Normed hidden states [N * M, B, H] of blocks `ids` [N * M, B].

        Slot 0 is the anchor, the others are masked; a context and an attention mask
        for each layer, as in Attention.
        """
        h = self._embed(ids) * self.config.input_embedding_scale
        for layer, context, mask in zip(self.layers, contexts, masks, strict=True):
            h = layer(h, context, offset, mask)
        return self.norm(h)

    def block_mask(
        self, layer: int, entry: ContextCache, width: int
    ) -> mx.array | None:
        """What each row of one block sees [1, 1, B, m + B]; None is everything.

        Distances are those of positions, whatever rows the context still holds.
        """
        sliding = bool(self.config.layer_types)
        sliding = sliding and self.config.layer_types[layer] == SLIDING
        causal = self.config.is_causal
        causal = sliding if causal is None else causal
        if not (sliding or causal):
            return None
        keys = entry.positions()
        rows = entry.offset + mx.arange(width)[:, None]
        seen = mx.ones((width, keys.size), mx.bool_)
        if sliding:
            seen = rows - keys < self.config.sliding_window
        block = mx.ones((width, width), mx.bool_)
        block = mx.tril(block) if causal else block
        return mx.concatenate([seen, block], axis=1)[None, None]

    def logits(self, hidden: mx.array) -> mx.array:
        """Logits [..., V] of normed hidden states [..., H]."""
        logits = self._head(hidden) * self.config.output_multiplier
        cap = self.config.final_logit_softcapping
        return mx.tanh(logits / cap) * cap if cap else logits

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Fill width - 1 masked slots behind `anchor` [1] at once: ids [1, width - 1].

        Each slot's choice is made on its own (section 3.2): the logits are
        marginals over what the other slots might hold.
        """
        logits = self.logits(self.block(anchor, cache, width))
        return choose(logits, range(1, width))

    def block(
        self, anchor: mx.array, cache: list[ContextCache], width: int
    ) -> mx.array:
        """Normed hidden states [1, width - 1, H] of the slots behind `anchor` [1]."""
        return self.slots(anchor, cache, width)[:, 1:]

    def slots(
        self, anchor: mx.array, cache: list[ContextCache], width: int
    ) -> mx.array:
        """Normed hidden states [1, width, H] of `anchor` [1] and its masked slots."""
        slots = mx.full((width - 1,), self.config.mask_token_id, dtype=anchor.dtype)
        ids = mx.concatenate([anchor, slots])[None]
        contexts = [entry.fetch() for entry in cache]
        masks = [self.block_mask(i, entry, width) for i, entry in enumerate(cache)]
        return self.hidden(ids, contexts, cache[0].offset, masks)
