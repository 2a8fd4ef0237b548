"""--thinking and --reasoning-effort: what the chat template is told, and what it costs.

Knows templates and the registry's figures; nothing of models or of how an answer looks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError, PromptError
from ..hub.find import name_drafter
from ..hub.registry import (
    DrafterEntry,
    drafter_entry,
    resolve,
    resolve_drafter,
)
from ..pair import Pair
from ..text.chat_template import apply_template
from ..types import require
from .answer_options import AnswerOptions

MODES = ("auto", "on", "off")
# The variables of templates that switch thinking; mlx-lm has its own word for the
# first where a model's template is a program.
SWITCHES = ("enable_thinking", "thinking")
EFFORT = "reasoning_effort"
CODE = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
NAME = re.compile(r"(?<![\w.])[a-z_]\w*")


@dataclass(frozen=True)
class Thinking:
    """What was asked for.

    Args:
        mode: "on", "off", or "auto" for the model's default.
        effort: A word that the model's template knows, e.g. low, medium, high.

    Raises:
        OptionError: The mode is none of the three, or the effort is empty.
    """

    mode: str = "auto"
    effort: str | None = None

    def __post_init__(self):
        require(self.mode in MODES, "--thinking", "on, off or auto", self.mode)
        effort = self.effort
        require(effort is None or effort.strip(), "--reasoning-effort", "a word", "")

    def template(self, tokenizer: Any) -> dict[str, Any]:
        """Arguments for the chat template.

        Args:
            tokenizer: mlx-lm's TokenizerWrapper.

        Raises:
            OptionError: The template has no such switch.
        """
        options: dict[str, Any] = {}
        if self.mode != "auto":
            options[_switch(tokenizer)] = self.mode == "on"
        if self.effort is not None:
            options[_effort(tokenizer)] = self.effort
        return options

    def thinks(self, tokenizer: Any) -> bool | None:
        """Whether the model will think; None where its template does not tell."""
        if self.mode != "auto":
            return self.mode == "on"
        switch = switch_of(tokenizer)
        if switch is None:
            return None
        plain, on, off = (
            _prompt(tokenizer, options)
            for options in ({}, {switch: True}, {switch: False})
        )
        return None if on == off or plain not in (on, off) else plain == on

    def warnings(self, entry: DrafterEntry | None, tokenizer: Any) -> list[str]:
        """What to say when the drafter was trained for the other kind of answers.

        Args:
            entry: The drafter's, if the registry knows it.
            tokenizer: mlx-lm's TokenizerWrapper.
        """
        thinks = self.thinks(tokenizer)
        if entry is None or thinks is None:
            return []
        if entry.mode != ("non-thinking" if thinks else "thinking"):
            return []
        now, other = ("on", "off") if thinks else ("off", "on")
        told = (
            f"Thinking is {now}, but {entry.repo} was trained on {entry.mode} answers"
        )
        if entry.measured is None:
            return [
                f"{told}: expect fewer accepted drafts than with --thinking {other}."
            ]
        figures = entry.measured
        here, there = figures.thinking, figures.without
        here, there = (here, there) if thinks else (there, here)
        return [
            f"{told}: {here} {figures.what} were measured with it {now}, "
            f"{there} with it {other} ({figures.source})."
        ]


def warnings(
    thinking: Thinking, asked: AnswerOptions, pair: Pair, tokenizer: Any
) -> list[str]:
    """As Thinking.warnings, of the drafter that a pair was loaded with.

    Args:
        thinking: What is asked for.
        asked: The options that the pair was loaded by.
        pair, tokenizer: What was loaded.
    """
    if pair.drafter is None:
        return []
    names = f"{asked.model} {resolve(asked.model)}"
    repo, _ = name_drafter(pair.target.config, names, asked.draft)
    entry = drafter_entry(resolve_drafter(repo)) if repo else None
    return thinking.warnings(entry, tokenizer)


def switch_of(tokenizer: Any) -> str | None:
    """The template's variable that turns thinking on and off, if it has one."""
    text = template_text(tokenizer)
    if text is None:
        # A template that is a program; mlx-lm hands the switch on by its own name.
        named = tokenizer.has_chat_template and tokenizer.has_thinking
        return SWITCHES[0] if named else None
    names = variables(text)
    return next((name for name in SWITCHES if name in names), None)


def template_text(tokenizer: Any) -> str | None:
    """The chat template, if it is a text; of several, all."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return "\n".join(template.values())
    return template


def variables(template: str) -> set[str]:
    """Names in a Jinja template's code; not those of attributes, nor its prose."""
    code = " ".join(CODE.findall(template))
    return set(NAME.findall(QUOTED.sub(" ", code)))


def _switch(tokenizer):
    found = switch_of(tokenizer)
    if found is None:
        hint = "Leave --thinking out."
        if EFFORT in variables(template_text(tokenizer) or ""):
            hint = "Use --reasoning-effort low."
        raise OptionError("This model's template has no thinking switch.", hint)
    return found


def _effort(tokenizer):
    if EFFORT not in variables(template_text(tokenizer) or ""):
        hint = "Leave --reasoning-effort out."
        if switch_of(tokenizer):
            hint = "Use --thinking on or off."
        raise OptionError("This model's template has no reasoning effort.", hint)
    return EFFORT


def _prompt(tokenizer, options):
    """What the template makes of a short question; None if it refuses that."""
    try:
        return apply_template(
            tokenizer, [{"role": "user", "content": "Hello"}], **options
        )
    except PromptError:
        return None
