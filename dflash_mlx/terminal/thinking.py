"""--thinking and --reasoning-effort: arguments for the chat template, and a warning.

Owns the warning when a drafter was trained on the other kind of answers. Does not know
models or how an answer is displayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import OptionError, PromptError
from ..hub.find import choose_drafter
from ..hub.registry import (
    DrafterEntry,
    drafter_entry,
    resolve,
    resolve_drafter,
)
from ..pair import Pair
from ..text.chat_template import apply_template
from ..text.template_switches import EFFORT, has_effort, switch_of
from ..types import require
from .answer_options import THINKING, AnswerOptions


@dataclass(frozen=True)
class Thinking:
    """Whether and how hard the model should reason.

    Args:
        mode: "on", "off", or "auto" for the template's default.
        effort: A word that the model's template knows, e.g. low, medium, high.

    Raises:
        OptionError: The mode is not one of these, or the effort is empty.
    """

    mode: str = "auto"
    effort: str | None = None

    def __post_init__(self):
        require(self.mode in THINKING, "--thinking", "on, off or auto", self.mode)
        effort = self.effort
        require(effort is None or effort.strip(), "--reasoning-effort", "a word", "")

    def template_arguments(self, tokenizer: Any) -> dict[str, Any]:
        """Arguments for the chat template.

        Args:
            tokenizer: mlx-lm's TokenizerWrapper.

        Raises:
            OptionError: The template does not have the setting.
        """
        arguments: dict[str, Any] = {}
        if self.mode != "auto":
            arguments[require_switch(tokenizer)] = self.mode == "on"
        if self.effort is not None:
            arguments[require_effort(tokenizer)] = self.effort
        return arguments

    def thinks(self, tokenizer: Any) -> bool | None:
        """Whether the model will reason; None if its template does not show it."""
        if self.mode != "auto":
            return self.mode == "on"
        switch = switch_of(tokenizer)
        if switch is None:
            return None
        default, on, off = (
            sample_prompt(tokenizer, arguments)
            for arguments in ({}, {switch: True}, {switch: False})
        )
        return None if on == off or default not in (on, off) else default == on

    def warnings(self, entry: DrafterEntry | None, tokenizer: Any) -> list[str]:
        """A warning if the drafter was trained on the other kind of answers.

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
        warning = (
            f"Thinking is {now}, but {entry.repo} was trained on {entry.mode} answers"
        )
        measured = entry.measured
        if measured is None:
            return [
                f"{warning}: expect fewer accepted drafts than with --thinking {other}."
            ]
        here, there = measured.thinking, measured.without
        here, there = (here, there) if thinks else (there, here)
        return [
            f"{warning}. Published: {here} {measured.what} with thinking {now}, "
            f"{there} with thinking {other} ({measured.source})."
        ]


def warnings(
    thinking: Thinking, options: AnswerOptions, pair: Pair, tokenizer: Any
) -> list[str]:
    """Thinking.warnings for the drafter of a loaded pair.

    Args:
        thinking: Whether the model should reason.
        options: The options that the pair was loaded with.
        pair, tokenizer: What was loaded.
    """
    if pair.drafter is None:
        return []
    repo = drafter_name(options, pair)
    entry = drafter_entry(repo) if repo else None
    return thinking.warnings(entry, tokenizer)


def drafter_name(options: AnswerOptions, pair: Pair) -> str | None:
    """The repository or folder of a loaded pair's drafter, or None without one.

    Args:
        options: The options that the pair was loaded with.
        pair: What was loaded.
    """
    if pair.drafter is None:
        return None
    names = f"{options.model} {resolve(options.model)}"
    repo, _ = choose_drafter(pair.target.config, names, options.draft)
    return resolve_drafter(repo) if repo else None


def require_switch(tokenizer: Any) -> str:
    """The template's variable that switches thinking; OptionError if it has none."""
    if switch := switch_of(tokenizer):
        return switch
    hint = "Leave --thinking out."
    if has_effort(tokenizer):
        hint = "Use --reasoning-effort low."
    raise OptionError("This model's template has no thinking switch.", hint)


def require_effort(tokenizer: Any) -> str:
    """The template's variable for the effort; OptionError if it has none."""
    if has_effort(tokenizer):
        return EFFORT
    hint = "Leave --reasoning-effort out."
    if switch_of(tokenizer):
        hint = "Use --thinking on or off."
    raise OptionError("This model's template has no reasoning effort.", hint)


def sample_prompt(tokenizer: Any, arguments: dict[str, Any]) -> list[int] | None:
    """The token ids of a short question; None if the template refuses it."""
    try:
        return apply_template(
            tokenizer, [{"role": "user", "content": "Hello"}], **arguments
        )
    except PromptError:
        return None
