"""Prompts that ask a model to fill in what lies between two texts.

Owns the markers of each family of models. Does not know requests.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class FillMarkers(NamedTuple):
    """The tokens before the prefix, the suffix and the text to be written."""

    prefix: str
    suffix: str
    middle: str


FAMILIES = (
    FillMarkers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, Granite
    FillMarkers("<|fim▁begin|>", "<|fim▁hole|>", "<|fim▁end|>"),
    FillMarkers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    FillMarkers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
    FillMarkers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    FillMarkers("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)


def find_fill_markers(tokenizer: Any) -> FillMarkers | None:
    """The markers that a tokenizer's vocabulary has, or None."""
    vocabulary = tokenizer.get_vocab()
    for markers in FAMILIES:
        if all(marker in vocabulary for marker in markers):
            return markers
    return None


def fill_prompt(
    tokenizer: Any, markers: FillMarkers, prefix: str, suffix: str
) -> list[int]:
    """Token ids of a prompt that asks for the text between two others.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        markers: From `find_fill_markers`.
        prefix, suffix: The two texts.
    """
    vocabulary = tokenizer.get_vocab()
    before = tokenizer.encode(prefix, add_special_tokens=False)
    after = tokenizer.encode(suffix, add_special_tokens=False)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    first, second, third = (vocabulary[marker] for marker in markers)
    return [*start, first, *before, second, *after, third]
