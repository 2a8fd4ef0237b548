"""The settings that /set and /plain change between two answers of a chat.

Owns their names and how their values are written. Does not know the ranges of values,
which Sampling and AnswerRequest check.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ...errors import OptionError
from ...types import Sampling
from ..answer_options import ThinkingOptions
from ..answer_request import AnswerRequest
from ..thinking import Thinking
from .looks import Looks

NONE_WORDS = ("none", "auto", "default")
SWITCH = {"on": True, "off": False}
SAMPLING = (
    "temp",
    "top_p",
    "top_k",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
# Other names of settings: the options of the command line, and ollama's parameters.
ALIASES = {
    "temperature": "temp",
    "reasoning_effort": "effort",
    "show_drafts": "drafts",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}
# mlx-lm's option; a block has one row more than drafts.
NUM_DRAFT_TOKENS = "num_draft_tokens"
# Options that --plain excludes, with their defaults.
DRAFTING = {
    "draft": None,
    "draft_window": None,
    "draft_quantize": None,
    "block_size": None,
}


@dataclass(frozen=True)
class SettingType:
    """How the value of a setting is written.

    Args:
        parse: The value of a text; raises ValueError or KeyError.
        expected: What the text must be.
        summary: One line of help.
        words: The texts to complete.
    """

    parse: Callable[[str], Any]
    expected: str
    summary: str
    words: tuple[str, ...] = ()


def number(summary: str, parse: type = float) -> SettingType:
    """A number, or a whole number if `parse` is int."""
    expected = "a number" if parse is float else "a whole number"
    return SettingType(parse, expected, summary)


def optional(parse: Callable[[str], Any], expected: str, summary: str) -> SettingType:
    """A value or none."""
    return SettingType(
        lambda text: None if text in NONE_WORDS else parse(text),
        f"{expected} or none",
        summary,
        ("none",),
    )


def choice(summary: str, *words: str) -> SettingType:
    """One of several words."""
    expected = ", ".join(words[:-1]) + f" or {words[-1]}"
    values = {word: word for word in words}
    return SettingType(values.__getitem__, expected, summary, words)


def switch(summary: str) -> SettingType:
    """On or off."""
    return SettingType(SWITCH.__getitem__, "on or off", summary, tuple(SWITCH))


SETTING_TYPES = {
    "temp": number("sampling temperature; 0 is greedy"),
    "top_p": number("nucleus sampling; 1 is off"),
    "top_k": number("number of likeliest tokens to sample from; 0 is off", int),
    "min_p": number("drop tokens below this share of the likeliest; 0 is off"),
    "xtc_probability": number("how often XTC sampling is applied; 0 is off"),
    "xtc_threshold": number("XTC drops all but the least likely tokens above it"),
    "repetition_penalty": optional(
        float, "a number", "factor above 1 makes recent tokens less likely"
    ),
    "presence_penalty": optional(
        float, "a number", "subtracted from the logit of every recent token"
    ),
    "frequency_penalty": optional(
        float, "a number", "subtracted from a logit for each recent occurrence"
    ),
    "seed": optional(int, "a whole number", "makes sampling repeatable"),
    "max_tokens": number("maximum tokens of an answer; -1 for no limit", int),
    "block_size": optional(
        int, "a whole number", "rows of a verify pass; none chooses by measured cost"
    ),
    "thinking": choice("whether the model reasons first", "auto", "on", "off"),
    "effort": optional(str, "a word", "reasoning effort, for example low or high"),
    "markdown": switch("render Markdown"),
    "drafts": switch("colour drafted tokens"),
    "reasoning": choice("how reasoning is displayed", "show", "fold", "hide"),
}


@dataclass(frozen=True)
class Settings:
    """The current values of the settings.

    Args:
        plain: Decode without drafting; changed by /plain, not by /set.
    """

    temp: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    max_tokens: int
    block_size: int | None
    plain: bool
    thinking: str = "auto"
    effort: str | None = None
    markdown: bool = True
    drafts: bool = False
    reasoning: str = "show"
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @classmethod
    def from_options(
        cls,
        request: AnswerRequest,
        thinking: ThinkingOptions | None = None,
        looks: Looks | None = None,
    ) -> Settings:
        """The settings of a command line."""
        sampling: Sampling = request.sampling
        thinking, looks = thinking or ThinkingOptions(), looks or Looks()
        return cls(
            **{name: vars(sampling)[name] for name in SAMPLING},
            max_tokens=request.max_tokens,
            block_size=request.block_size,
            plain=request.plain,
            thinking=thinking.thinking,
            effort=thinking.reasoning_effort,
            markdown=looks.markdown,
            drafts=looks.show_drafts,
            reasoning=looks.reasoning,
        )

    def with_value(self, name: str, text: str) -> Settings:
        """Change one value, without checking its range.

        Args:
            name: The setting, or another of its names; see setting_name.
            text: The value as written.

        Raises:
            OptionError: There is no such setting, or the text is of another type.
        """
        given, name = name, setting_name(name)
        try:
            value = SETTING_TYPES[name].parse(text)
        except (ValueError, KeyError):
            expected = SETTING_TYPES[name].expected
            raise OptionError(f"{name} must be {expected}, but is {text!r}.") from None
        if is_number_of_drafts(given) and value is not None:
            value += 1
        return replace(self, **{name: value})

    def apply(self, request: AnswerRequest) -> AnswerRequest:
        """The request for the next answer.

        Raises:
            OptionError: A value is out of its range, as on the command line.
        """
        values = {name: vars(self)[name] for name in SAMPLING}
        changed = replace(
            request,
            sampling=replace(request.sampling, **values),
            max_tokens=self.max_tokens,
            plain=False,
            block_size=self.block_size,
        )
        return replace(changed, **DRAFTING, plain=True) if self.plain else changed

    def make_thinking(self) -> Thinking:
        """Whether and how hard the model should reason."""
        return Thinking(self.thinking, self.effort)

    def template_arguments(self, tokenizer: TokenizerWrapper) -> dict[str, Any]:
        """Arguments for the chat template.

        Raises:
            OptionError: The template does not have the setting.
        """
        return self.make_thinking().template_arguments(tokenizer)

    def non_defaults(self) -> set[str]:
        """The names of the settings that differ from the command line's defaults."""
        defaults = Settings.from_options(AnswerRequest()).as_dict()
        return {k for k, value in self.as_dict().items() if value != defaults[k]}

    def as_dict(self) -> dict[str, Any]:
        """The values that /set can change, by name."""
        values = {each.name: vars(self)[each.name] for each in fields(self)}
        return {name: values[name] for name in SETTING_TYPES}


def setting_name(name: str) -> str:
    """The name of a setting, which may be written as an option of the command line.

    Args:
        name: With underscores or hyphens, also an option of mlx-lm or ollama.

    Raises:
        OptionError: There is no such setting.
    """
    name = name.lower().lstrip("-").replace("-", "_")
    if name == NUM_DRAFT_TOKENS:
        return "block_size"
    name = ALIASES.get(name, name)
    if name in SETTING_TYPES:
        return name
    near = difflib.get_close_matches(name, SETTING_TYPES, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    raise OptionError(
        f"There is no setting {name!r}.", f"{hint}/set lists the settings."
    )


def is_number_of_drafts(name: str) -> bool:
    """Whether a setting was named by its number of drafts, as in mlx-lm."""
    return name.lower().lstrip("-").replace("-", "_") == NUM_DRAFT_TOKENS


def format_value(value: Any) -> str:
    """A value as /set takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return str(value)
