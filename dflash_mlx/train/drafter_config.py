"""The config of the drafter that a training run starts from.

Owns the defaults that depend on the target or on the drafter to start from. Does not
know weights or data.
"""

from __future__ import annotations

from typing import Any

from ..errors import OptionError
from ..models.drafters.config import DFlash2Config, DFlashConfig, DSparkConfig
from ..models.drafters.fields import GEMMA
from ..pair import Pair, check_taps
from ..types import require
from .options import TrainOptions

CONFIGS = {"dflash": DFlashConfig, "dflash2": DFlash2Config, "dspark": DSparkConfig}


def default_taps(target_layers: int, taps: int) -> tuple[int, ...]:
    """Tap layers spread over the target's depth, as in the published drafters.

    Args:
        target_layers: N, the number of target layers.
        taps: The number of taps.

    Returns:
        Layer indices from 1 to N - 3; the middle layer for a single tap.
    """
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
    """The config of the drafter to train.

    Args:
        pair: The target.
        tokenizer: Source of the default mask token.
        options: Settings of the run.
        source: The config of the drafter to start from.

    Raises:
        OptionError: No id is free for the mask token, or an option contradicts
            `source`.
        PairError: A tap is out of range.
    """
    kind = CONFIGS[options.kind]
    if source is None:
        fields = vars(target_sized_config(pair, tokenizer, options))
    else:
        check_source(source, kind)
        fields = vars(source)
    given = {
        "block_size": options.block_size,
        "num_hidden_layers": options.layers,
        "target_layer_ids": options.taps,
        "mask_token_id": options.mask_token_id,
        "selector_rank": options.rank,
        "markov_rank": options.rank,
        "markov_head_type": options.markov_head,
    }
    for name, value in given.items():
        if value not in (None, fields.get(name, value)):
            raise OptionError(
                f"{name} {value} contradicts the drafter to start from, which has "
                f"{fields[name]}.",
                "Leave this option out.",
            )
    if type(source) is kind and kind is not DFlashConfig:
        return source
    fields = {name: fields[name] for name in DFlashConfig.field_names()}
    if kind is DFlash2Config:
        top = min(16, fields["draft_vocab_size"] or fields["vocab_size"])
        return kind(**fields, selector_rank=options.rank or 256, selector_top_k=top)
    if kind is DSparkConfig:
        rank, head = options.rank or 256, options.markov_head or "vanilla"
        return kind(**fields, markov_rank=rank, markov_head_type=head)
    return kind(**fields)


def check_source(source: DFlashConfig, kind: type[DFlashConfig]) -> None:
    """Raise OptionError unless a drafter of `kind` can start from `source`."""
    other = type(source) is not kind and type(source) is not DFlashConfig
    reasons = {
        "its head is of another kind": other,
        "it drafts from a reduced vocabulary": source.draft_vocab_size is not None,
        "it has Gemma layers": kind is DFlash2Config and source.model_type == GEMMA,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise OptionError(
            f"Training cannot start from this drafter: {wrong[0]}.",
            "Start from a DFlash drafter, or leave --warm-start out.",
        )


def target_sized_config(
    pair: Pair, tokenizer: Any, options: TrainOptions
) -> DFlashConfig:
    """The config of a new DFlash drafter with the sizes of the target."""
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
            "Choose an id that never occurs in text with --mask-token-id.",
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
