"""Messages to token ids, by the chat template that comes with a tokenizer.

Knows templates and what they refuse; nothing of models or caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from .errors import PromptError
from .prompt_cache import common_prefix

# What a message might be instead: tokens may merge with those around it.
OTHERS = ("x", "\n\n1")


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
        PromptError: The tokenizer has no chat template, or a message is not text.
    """
    check_template(tokenizer)
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type", "text") != "text":
                raise refused(part["type"])
    return tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=not go_on,
        continue_final_message=go_on,
        **options,
    )


def marks(
    tokenizer: TokenizerWrapper, messages: list[dict[str, str]], **options: Any
) -> tuple[int, int]:
    """Where later prompts will part from this one, in leading ids: where the last
    message begins (it may be edited or taken back), and where the next turn goes on.

    Templates write earlier turns anew: they drop reasoning, or the empty block that
    opens an answer without it. So the prompt is compared with those of made-up turns.

    Args:
        tokenizer, messages, options: As in `apply_template`; the last message is the
            user's.
    """
    *before, last = messages
    prompt = apply_template(tokenizer, messages, **options)
    edits = [[*before, last | {"content": text}] for text in OTHERS]
    answers = [
        [*messages, {"role": "assistant", "content": text}, last] for text in OTHERS
    ]
    begins, goes_on = (
        min(_common(tokenizer, prompt, other, options) for other in others)
        for others in (edits, answers)
    )
    return begins, goes_on


def _common(tokenizer, prompt, messages, options):
    """Leading ids that a prompt shares with other messages' prompt."""
    try:
        return common_prefix(prompt, apply_template(tokenizer, messages, **options))
    except TemplateError:  # it takes no such turns
        return len(prompt)


def check_text(config: dict[str, Any], ids: Sequence[int]) -> None:
    """Raise PromptError where a prompt holds a placeholder of something seen or heard.

    Args:
        config: The target's config.json.
        ids: The prompt.
    """
    for kind in ("image", "video", "audio"):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            token = config.get(name)
            if token is not None and token in ids:
                raise refused(kind)


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
