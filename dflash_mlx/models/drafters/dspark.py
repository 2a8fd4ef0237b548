"""DSpark drafters (arXiv 2607.05147): DFlash's backbone, and a Markov head.

Owns what DSpark adds: slot 0 predicts too, so B rows give B drafts, and each slot's
logits are corrected by the token chosen before it. Reads the packagings of DeepSpec
(all fields at the root), SpecForge (`projector_type`) and LiquidAI; others are refused
by name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import ConfigError
from .base import Choose, ContextCache
from .checkpoint import Config, sane
from .dflash import DFlash, DFlashConfig

HEADS = ("vanilla", "gated", "rnn")


@dataclass(frozen=True)
class DSparkConfig(DFlashConfig):
    """A DSpark head; the names are the checkpoint's. `block_size` counts the rows of a
    block, each of which gives a draft."""

    markov_rank: int = 256
    markov_head_type: str = "vanilla"
    enable_confidence_head: bool = True
    confidence_head_with_markov: bool = True

    ARCHITECTURES = ("DSparkDraftModel", "Qwen3DSparkModel", "Lfm2DSparkDraftModel")
    REFUSED = (
        "conv_kernel_size",
        "selector_rank",
        "causal",
        "use_swa",
        "attention_sink_bias",
        "dflash_query_causal",
        "enable_qwen35_gated_q_proj",
        "log_snr_conditioning",
    )
    PACKAGINGS = ("speculators_model_type", "speculators_config")

    @classmethod
    def fields_of(cls, config: Config) -> dict[str, Any]:
        """DFlash's fields, and the heads.

        DeepSpec copies the target's config, so what its configs say of layer types,
        windows and rope scaling is not about the drafter, and is not read.
        """
        flat = "Qwen3DSparkModel" in (config.root.get("architectures") or [])
        if flat:
            copied = ("layer_types", "sliding_window", "rope_scaling", "is_causal")
            config = config.without(copied)
        fields = super().fields_of(config)
        if flat:
            fields["rope_scaling"] = None
        reduced = config.get("draft_vocab_size", int, fields["vocab_size"])
        sane(config, "draft_vocab_size", reduced, reduced == fields["vocab_size"])
        if config.get("sample_from_anchor", bool, True) is False:
            raise ConfigError(
                f"{config.path} sets sample_from_anchor to false, which this version "
                "cannot run in a DSpark head."
            )
        kind = config.get("markov_head_type", str, "vanilla")
        sane(config, "markov_head_type", kind, kind in HEADS)
        return fields | {
            "markov_rank": config.get("markov_rank", int, 256),
            "markov_head_type": kind,
            "enable_confidence_head": config.get("enable_confidence_head", bool, True),
            "confidence_head_with_markov": config.get(
                "confidence_head_with_markov", bool, True
            ),
        }

    def to_json(self) -> dict[str, Any]:
        """config.json in SpecForge's form."""
        written = super().to_json()
        written["dflash_config"]["projector_type"] = "dspark"
        return written


class MarkovHead(nn.Module):
    """What the token before a slot adds to its logits.

    Args:
        config: The head's kind and sizes.
        names: Tensors of the checkpoint; biases are there or not.
    """

    def __init__(self, config: DSparkConfig, names: Collection[str] | None):
        super().__init__()
        rank, hidden = config.markov_rank, config.hidden_size
        self.kind = config.markov_head_type
        self.markov_w1 = nn.Embedding(config.vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, config.vocab_size, bias=False)

        def biased(name):
            return names is None or f"markov_head.{name}.bias" in names

        if self.kind == "gated":
            self.gate_proj = nn.Linear(hidden + rank, rank, bias=biased("gate_proj"))
        if self.kind == "rnn":
            bias = biased("joint_proj")
            self.joint_proj = nn.Linear(2 * rank + hidden, 3 * rank, bias=bias)

    def __call__(
        self, before: mx.array, hidden: mx.array, state: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Correct a slot.

        Args:
            before: [1] the token before it.
            hidden: [1, H] its normed hidden state.
            state: [1, r] of the walk; zeros at its start.

        Returns:
            The bias [1, V] and the next state.
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
    """The chance that a draft is accepted, as the drafter sees it."""

    def __init__(self, config: DSparkConfig):
        super().__init__()
        with_markov = config.confidence_head_with_markov and config.markov_rank
        width = config.hidden_size + (config.markov_rank if with_markov else 0)
        self.proj = nn.Linear(width, 1)

    def __call__(self, features: mx.array) -> mx.array:
        return mx.sigmoid(self.proj(features))[..., 0]


class DSpark(DFlash):
    """A DSpark drafter (the Drafter protocol).

    Args:
        config: Its numbers.
        window: As in DFlash.
        names: Tensors of the checkpoint. Tables that it has are used in place of the
            target's; None is a head with no tables of its own.
    """

    def __init__(
        self,
        config: DSparkConfig,
        window: int | None = None,
        names: Collection[str] | None = None,
    ):
        super().__init__(config, window)
        shape = config.vocab_size, config.hidden_size
        if names and "embed_tokens.weight" in names:
            self.embed_tokens = nn.Embedding(*shape)
        if names and "lm_head.weight" in names:
            self.lm_head = nn.Linear(*reversed(shape), bias=False)
        if config.markov_rank:
            self.markov_head = MarkovHead(config, names)
        if config.enable_confidence_head:
            self.confidence_head = ConfidenceHead(config)

    @property
    def block_size(self) -> int:
        """Rows to verify: the anchor and a draft from each row of the block."""
        return self.config.block_size + 1

    def bind(self, embed, head) -> None:
        """Borrow the target's embedding and head, or use its own."""
        own_embed = self.embed_tokens if "embed_tokens" in self else embed
        own_head = self.lm_head if "lm_head" in self else head
        super().bind(own_embed, own_head)

    def propose(
        self, anchor: mx.array, cache: list[ContextCache], width: int, choose: Choose
    ) -> mx.array:
        """Draft width - 1 tokens, the first from the anchor's own slot.

        The block keeps its trained rows, since each sees all of them.
        """
        rows = max(self.config.block_size, width - 1)
        hidden = self.slots(anchor, cache, rows)[:, : width - 1]
        logits = self.logits(hidden)
        if "markov_head" not in self:
            return choose(logits, range(1, width))
        path, before = [], anchor
        state = mx.zeros((1, self.config.markov_rank), hidden.dtype)
        for i in range(width - 1):
            bias, state = self.markov_head(before, hidden[:, i], state)
            chosen = choose(logits[:, i : i + 1] + bias[:, None], [i + 1])
            path.append(chosen)
            before = chosen[0]
        return mx.concatenate(path, axis=1)

    def confidence(self, hidden: mx.array, before: mx.array) -> mx.array:
        """Predicted acceptance [1, n] of drafts.

        Args:
            hidden: [1, n, H] normed hidden states of the slots.
            before: [1, n] the token before each slot.
        """
        features = hidden
        if self.config.confidence_head_with_markov and self.config.markov_rank:
            code = self.markov_head.markov_w1(before)
            features = mx.concatenate([hidden, code], axis=-1)
        return self.confidence_head(features)
