"""The settings of a chat template: whether the model thinks, and how hard.

Owns how they are found in the template's text. Does not know messages or options.
"""

from __future__ import annotations

import re
from typing import Any

# Arguments of apply_chat_template that the program sets itself.
RESERVED = (
    "messages",
    "conversation",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)
# Template variables that switch thinking on and off. Where a model's template is a
# program, mlx-lm passes the first one on under its own name.
SWITCHES = ("enable_thinking", "thinking")
EFFORT = "reasoning_effort"
CODE = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
NAME = re.compile(r"(?<![\w.])[a-z_]\w*")


def switch_of(tokenizer: Any) -> str | None:
    """The template's variable that switches thinking, or None."""
    text = template_text(tokenizer)
    if text is None:
        has_switch = tokenizer.has_chat_template and tokenizer.has_thinking
        return SWITCHES[0] if has_switch else None
    names = variables(text)
    return next((name for name in SWITCHES if name in names), None)


def template_text(tokenizer: Any) -> str | None:
    """The text of the chat template, or of all; None if the template is a program."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return "\n".join(template.values())
    return template


def variables(template: str) -> set[str]:
    """Names in the code of a Jinja template, without attributes and quoted text."""
    code = " ".join(CODE.findall(template))
    return set(NAME.findall(QUOTED.sub(" ", code)))


def has_effort(tokenizer: Any) -> bool:
    """Whether the template has a variable for the reasoning effort."""
    return EFFORT in variables(template_text(tokenizer) or "")
