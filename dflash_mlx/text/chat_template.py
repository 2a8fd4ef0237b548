"""Messages in, token ids out; and how much of a prompt later turns will keep.

Owns what is asked of a tokenizer's chat template. Knows no model and no rows.
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.prompt_cache import common_prefix
from ..errors import PromptError

# Made-up turns; a template that rewrites what came before shows it behind them.
ANSWER = {"role": "assistant", "content": "Yes."}
QUESTION = {"role": "user", "content": "Why?"}


def apply_template(
    tokenizer: TokenizerWrapper,
    messages: list[dict[str, str]],
    *,
    go_on: bool = False,
    **options: Any,
) -> list[int]:
    """Token ids of a chat, ready for the assistant's turn.

    Args:
        tokenizer: mlx-lm's.
        messages: {"role", "content"} each.
        go_on: The last message is the beginning of the assistant's answer.
        options: For the template, e.g. enable_thinking.

    Raises:
        PromptError: The tokenizer has no chat template, the template refuses the
            messages, or a message is not text.
    """
    check_template(tokenizer)
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type", "text") != "text":
                raise refused(part["type"])
    try:
        return tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not go_on,
            continue_final_message=go_on,
            **options,
        )
    except (TemplateError, TypeError, ValueError) as error:
        # A template is a program; transformers raises ValueError where it drops or
        # rewrites a message that was to be gone on with.
        raise PromptError(
            f"This model's chat template refuses these messages: {error}.",
            "Change them, or use --ignore-chat-template.",
        ) from error


def surviving(
    tokenizer: TokenizerWrapper, messages: list[dict[str, str]], **options: Any
) -> int:
    """How many leading ids of a chat's prompt the next turn's prompt will keep.

    All of them, unless the template writes earlier turns in another way than the
    last one: without their reasoning, or without an empty think block. The prompt is
    compared with that of a made-up next turn.

    Args:
        tokenizer, messages, options: As in apply_template.

    Returns:
        That number; 0 where the template refuses such a turn, so that nothing is
        known.
    """
    prompt = apply_template(tokenizer, messages, **options)
    return _shared(tokenizer, prompt, [*messages, ANSWER, QUESTION], options)


def marks(
    tokenizer: TokenizerWrapper, messages: list[dict[str, str]], **options: Any
) -> tuple[int, int]:
    """Where a chat's prompt may be left by later ones, as PromptCache.reuse takes it.

    Args:
        tokenizer, messages, options: As in apply_template.

    Returns:
        The leading ids that stay when the last message is changed, or taken back and
        another one is said; and those that stay when the chat goes on: `surviving`.
    """
    prompt = apply_template(tokenizer, messages, **options)
    last = messages[-1]
    other = "B" if str(last["content"]).startswith("A") else "A"
    changed = [*messages[:-1], {**last, "content": other}]
    return (
        _shared(tokenizer, prompt, changed, options),
        _shared(tokenizer, prompt, [*messages, ANSWER, QUESTION], options),
    )


def _shared(tokenizer, prompt, messages, options):
    """Leading ids that a prompt shares with that of other messages."""
    try:
        other = apply_template(tokenizer, messages, **options)
    except PromptError:
        return 0
    return common_prefix(prompt, other)


def refused(kind: str) -> PromptError:
    """The error for a prompt that is not all text."""
    return PromptError(
        f"The prompt holds a part of type {kind!r}, but only a model's text part is "
        "run here.",
        "Leave it out, or use a tool for vision-language models.",
    )


def check_template(tokenizer: TokenizerWrapper) -> None:
    """Raise PromptError when the tokenizer has no chat template."""
    if not tokenizer.has_chat_template:
        raise PromptError(
            "This model's tokenizer has no chat template.",
            "Use `dflash-mlx generate` with --ignore-chat-template.",
        )
