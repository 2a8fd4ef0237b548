"""A prompt of any kind to token ids, and what prompts cannot hold.

Does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..errors import PromptError
from .chat_template import apply_template, unsupported_content

# Text; token ids, also in an array or as a chat template returns them; messages.
Prompt = str | Sequence[int] | Mapping[str, Any] | Sequence[dict[str, str]]


def encode(tokenizer: TokenizerWrapper, prompt: Prompt) -> list[int]:
    """The token ids of a prompt. Text gets special tokens, unless it starts with the
    tokenizer's first one; messages get the chat template.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        prompt: Text; token ids, also in an array; messages with "role" and "content";
            or what the chat template of a Hugging Face tokenizer returns, which has the
            ids as "input_ids".

    Raises:
        PromptError: It is none of these, or the chat template rejects the messages.
    """
    if is_conversation(prompt):
        return apply_template(tokenizer, prompt)
    if not isinstance(prompt, str):
        return token_ids(prompt)
    bos = tokenizer.bos_token
    special = bos is None or not prompt.startswith(bos)
    return tokenizer.encode(prompt, add_special_tokens=special)


def is_conversation(prompt: Prompt) -> bool:
    """Whether a prompt is a list of messages."""
    return (
        isinstance(prompt, list | tuple)
        and len(prompt) > 0
        and all(isinstance(each, Mapping) for each in prompt)
    )


def token_ids(prompt: Sequence[int] | Mapping[str, Any]) -> list[int]:
    """The token ids of a prompt that is not text; see `encode`."""
    try:
        ids = prompt["input_ids"] if isinstance(prompt, Mapping) else prompt
        array = np.asarray(ids)
    except (KeyError, TypeError, ValueError):
        array = np.zeros(())
    if array.ndim == 2 and len(array) == 1:
        array = array[0]  # a batch of one
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise PromptError(
            f"The prompt must be text or token ids, but is a {type(prompt).__name__}.",
            "Pass a string, a list of messages, or one list of integers.",
        )
    return array.tolist()


def xtc_special_tokens(tokenizer: TokenizerWrapper) -> tuple[int, ...]:
    """The tokens that XTC never drops, as in mlx-lm: those that end a line or the
    text."""
    line_end = tokenizer.encode("\n", add_special_tokens=False)
    return (*line_end, *sorted(tokenizer.eos_token_ids))


def check_text_only(config: dict[str, Any], ids: Sequence[int]) -> None:
    """Raise PromptError if a prompt has a placeholder for an image, a video or audio.

    Args:
        config: The target's config.json.
        ids: The prompt.
    """
    for kind in ("image", "video", "audio"):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            token = config.get(name)
            if token is not None and token in ids:
                raise unsupported_content(kind)
