"""Settings of a training run, and the config of the drafter that it starts from.

The paper's values are the defaults where it gives them (arXiv 2602.06036, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import OptionError
from ..models.drafters.config import (
    GEMMA,
    MARKOV,
    DFlash2Config,
    DFlashConfig,
    DSparkConfig,
)
from ..pair import Pair, check_taps
from ..types import require

KINDS = {"dflash": DFlashConfig, "dflash2": DFlash2Config, "dspark": DSparkConfig}


@dataclass(frozen=True)
class TrainOptions:
    """A training run; the defaults are the paper's where it gives them.

    Args:
        kind: "dflash", "dflash2" or "dspark".
        warm_start: A drafter's folder or Hub id to start from; its body is kept, and
            what the kind adds begins as nothing. None starts from random weights.
        block_size: Rows of a block, the anchor included; None is 16, or that of
            `warm_start`.
        layers: Draft layers; None is 5, or as many as `warm_start` has.
        taps: Target layers to read; None spreads five (or `layers`) over the depth, or
            is what `warm_start` reads.
        mask_token_id: The id of a masked slot; None takes the tokenizer's mask token
            or the first id that the tokenizer does not use, or that of `warm_start`.
        context_window: Committed rows that the drafter is shown when it drafts; None is
            the length that nine tenths of the training texts do not exceed.
        rank: Of DFlash 2's selector or DSpark's Markov head; None is 256, or that of
            `warm_start`.
        markov_head: "vanilla", "gated" or "rnn"; None is "vanilla", or that of
            `warm_start`.
        steps: Updates.
        batch: Sequences per update.
        anchors: Blocks per sequence and update, drawn anew each time.
        max_length: Longer sequences are cut.
        lr, warmup, clip: Peak rate, share of the steps to reach it, gradient norm.
        gamma: Weight of slot k is exp(-(k - 1) / gamma); None goes by block size.
        held_out: Conversations kept for the evaluation.
        eval_every, save_every: Updates between them.
        seed: Of initial weights, order and anchors.
    """

    kind: str = "dflash"
    warm_start: str | None = None
    block_size: int | None = None
    layers: int | None = None
    taps: tuple[int, ...] | None = None
    mask_token_id: int | None = None
    context_window: int | None = None
    rank: int | None = None
    markov_head: str | None = None
    steps: int = 1000
    batch: int = 8
    anchors: int = 64
    max_length: int = 2048
    lr: float = 6e-4
    warmup: float = 0.04
    clip: float = 1.0
    gamma: float | None = None
    held_out: int = 32
    eval_every: int = 100
    save_every: int = 100
    seed: int = 0

    def __post_init__(self):
        width, layers = self.block_size, self.layers
        require(width is None or width >= 2, "block_size", "2 or more", width)
        require(layers is None or layers >= 1, "layers", "1 or more", layers)
        rank = self.rank
        require(rank is None or rank >= 1, "rank", "1 or more", rank)
        fits = {"rank": self.kind != "dflash", "markov_head": self.kind == "dspark"}
        for name, fit in fits.items():
            told = getattr(self, name)
            require(told is None or fit, name, f"left out for {self.kind}", told)
        for name in ("steps", "batch", "anchors", "eval_every", "save_every"):
            value = getattr(self, name)
            require(value >= 1, name, "1 or more", value)
        window = self.context_window
        require(window is None or window >= 1, "context_window", "1 or more", window)
        kinds = ", ".join(KINDS)
        require(self.kind in KINDS, "kind", f"one of {kinds}", self.kind)
        heads = ", ".join(MARKOV)
        head = self.markov_head
        require(head in (None, *MARKOV), "markov_head", f"one of {heads}", head)
        for name in ("lr", "clip"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)
        gamma, longest = self.gamma, self.max_length
        require(gamma is None or gamma > 0, "gamma", "above 0", gamma)
        require(longest >= 2, "max_length", "2 or more", longest)
        require(self.held_out >= 1, "held_out", "1 or more", self.held_out)

    def decay(self, block_size: int) -> float:
        """gamma, by default the paper's 4, 5 and 7 for blocks of 8, 10 and 16."""
        if self.gamma is not None:
            return self.gamma
        return float(np.interp(block_size, [8, 10, 16], [4, 5, 7]))


def default_taps(target_layers: int, taps: int) -> tuple[int, ...]:
    """Layers spread over the target's depth: 1 to N - 3, as published heads have it."""
    if taps == 1:
        return (target_layers // 2,)
    step = (target_layers - 4) / (taps - 1)
    return tuple(sorted({round(1 + i * step) for i in range(taps)}))


def new_config(
    pair: Pair,
    tokenizer: Any,
    options: TrainOptions,
    source: DFlashConfig | None = None,
) -> DFlashConfig:
    """The config of the drafter to be trained.

    Args:
        pair: Its target.
        tokenizer: For the default mask token.
        options: Settings.
        source: The config of the drafter that it starts from.

    Raises:
        OptionError: No id is free for the mask token, or a setting contradicts the
            source.
        PairError: A tap is out of range.
    """
    kind = KINDS[options.kind]
    body = vars(fresh_config(pair, tokenizer, options) if source is None else source)
    if source is not None:
        check_source(source, kind)
    wanted = {
        "block_size": options.block_size,
        "num_hidden_layers": options.layers,
        "target_layer_ids": options.taps,
        "mask_token_id": options.mask_token_id,
        "selector_rank": options.rank,
        "markov_rank": options.rank,
        "markov_head_type": options.markov_head,
    }
    for name, value in wanted.items():
        if value not in (None, body.get(name, value)):
            raise OptionError(
                f"{name} {value} contradicts the drafter to start from, which has "
                f"{body[name]}.",
                "Leave it out.",
            )
    if type(source) is kind and kind is not DFlashConfig:
        return source
    body = {name: body[name] for name in DFlashConfig.names()}
    if kind is DFlash2Config:
        top = min(16, body["draft_vocab_size"] or body["vocab_size"])
        return kind(**body, selector_rank=options.rank or 256, selector_top_k=top)
    if kind is DSparkConfig:
        rank, head = options.rank or 256, options.markov_head or "vanilla"
        return kind(**body, markov_rank=rank, markov_head_type=head)
    return kind(**body)


def check_source(source: DFlashConfig, kind: type[DFlashConfig]) -> None:
    """Raise OptionError unless a drafter of `kind` can start from `source`."""
    other = type(source) is not kind and type(source) is not DFlashConfig
    reasons = {
        "its head is of another kind": other,
        "it drafts from a reduced vocabulary": source.draft_vocab_size is not None,
        "its layers are Gemma's": kind is DFlash2Config and source.model_type == GEMMA,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise OptionError(
            f"The drafter to start from does not go with this training: {wrong[0]}.",
            "Start from a DFlash drafter, or leave --warm-start out.",
        )


def fresh_config(pair: Pair, tokenizer: Any, options: TrainOptions) -> DFlashConfig:
    """A body for a target, from nothing but its numbers."""
    target = pair.target
    config = target.config.get("text_config") or target.config
    mask = options.mask_token_id
    if mask is None:
        mask = tokenizer.mask_token_id
    if mask is None and len(tokenizer) < target.vocab_size:
        mask = len(tokenizer)
    if mask is None:
        raise OptionError(
            "The tokenizer uses every id of the vocabulary and has no mask token.",
            "Name an id that text never has with --mask-token-id.",
        )
    require(0 <= mask < target.vocab_size, "mask_token_id", "in the vocabulary", mask)
    layers = options.layers or 5
    taps = options.taps or default_taps(target.num_layers, max(5, layers))
    check_taps(taps, target.num_layers)
    heads = config.get("num_attention_heads") or max(1, target.hidden_size // 128)
    return DFlashConfig(
        hidden_size=target.hidden_size,
        intermediate_size=config.get("intermediate_size") or 3 * target.hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or target.hidden_size // heads,
        vocab_size=target.vocab_size,
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        max_position_embeddings=config.get("max_position_embeddings", 40960),
        block_size=options.block_size or 16,
        mask_token_id=mask,
        target_layer_ids=taps,
        num_target_layers=target.num_layers,
        rope_theta=float(config.get("rope_theta") or 10000.0),
    )
