"""Messages to token ids, and how much of a prompt later prompts will share with it.

Owns every use of a tokenizer's chat template. Does not know models or caches.
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..cache.prompt_cache import common_prefix
from ..errors import PromptError

# A made-up next turn, to find out whether the template rewrites earlier ones.
ANSWER = {"role": "assistant", "content": "Yes."}
QUESTION = {"role": "user", "content": "Why?"}
# A template is a program, which can fail in any of these ways. transformers raises
# ValueError if it drops or changes a message that is to be continued.
TEMPLATE_ERRORS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def apply_template(
    tokenizer: TokenizerWrapper,
    messages: list[dict[str, str]],
    *,
    continue_final_message: bool = False,
    **options: Any,
) -> list[int]:
    """Token ids of a chat, ready for the assistant's turn.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        messages: A dict with "role" and "content" each.
        continue_final_message: The last message is the beginning of the answer.
        options: Passed to the template, e.g. enable_thinking.

    Raises:
        PromptError: The tokenizer has no chat template, the template rejects the
            messages, or a message is not text.
    """
    check_template(tokenizer)
    for message in messages:
        check_content(message.get("content"))
    try:
        return tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not continue_final_message,
            continue_final_message=continue_final_message,
            **options,
        )
    except TEMPLATE_ERRORS as error:
        raise PromptError(
            f"The model's chat template rejects these messages: {error}.",
            "Change them, or use --ignore-chat-template.",
        ) from error


def check_content(content: Any) -> None:
    """Raise PromptError if the content of a message is not text.

    Args:
        content: Text, or a list of parts {"type": "text", "text": "..."}.
    """
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            raise PromptError(
                f"A message's content has the part {part!r}, which is not an object.",
                'Pass the content as one string, or as parts {"type": "text", '
                '"text": "..."}.',
            )
        if part.get("type", "text") != "text":
            raise unsupported_content(part["type"])


def stable_prefix(
    tokenizer: TokenizerWrapper, messages: list[dict[str, str]], **options: Any
) -> int:
    """The number of leading ids of a prompt that the next turn's prompt will share.

    It is the whole prompt, unless the template writes earlier turns differently from
    the last one: without their reasoning, or without an empty think block. The prompt
    is compared with that of a made-up next turn.

    Args:
        tokenizer, messages, options: As in apply_template.

    Returns:
        The number; 0 if the template rejects the made-up turn.
    """
    prompt = apply_template(tokenizer, messages, **options)
    return _shared(tokenizer, prompt, [*messages, ANSWER, QUESTION], options)


def marks(
    tokenizer: TokenizerWrapper, messages: list[dict[str, str]], **options: Any
) -> tuple[int, int]:
    """Where later prompts of a chat may part from this one, for PromptCache.reuse.

    Args:
        tokenizer, messages, options: As in apply_template.

    Returns:
        Two numbers of leading ids: those shared with a prompt whose last message is
        another one, and those shared with the next turn's prompt (`stable_prefix`).
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
    """The number of leading ids that a prompt shares with that of other messages."""
    try:
        other = apply_template(tokenizer, messages, **options)
    except PromptError:
        return 0
    return common_prefix(prompt, other)


def unsupported_content(kind: str) -> PromptError:
    """The error for a prompt that is not only text.

    Args:
        kind: The type of the content, e.g. "image".
    """
    return PromptError(
        f"The prompt contains content of type {kind!r}, but only text is supported.",
        "Remove it, or use a tool for vision-language models such as mlx-vlm.",
    )


def check_template(tokenizer: TokenizerWrapper) -> None:
    """Raise PromptError if the tokenizer has no chat template."""
    if not tokenizer.has_chat_template:
        raise PromptError(
            "This model's tokenizer has no chat template.",
            "Use `dflash-mlx generate` with --ignore-chat-template.",
        )
