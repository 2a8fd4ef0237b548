"""What can be changed between two answers of a chat: names, texts, checks.

Owns /set's names and how their values are written. The ranges are those of the command
line's options: Sampling and AnswerRequest check them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ...errors import OptionError
from ...types import Sampling
from ..answer_options import Looks, ThinkingOptions
from ..answer_request import AnswerRequest
from ..thinking import Thinking

NONE = ("none", "auto", "default")
SWITCH = {"on": True, "off": False}
SAMPLING = ("temp", "top_p", "top_k", "min_p", "seed")


@dataclass(frozen=True)
class Kind:
    """How a setting's value is written.

    Args:
        read: Its value from a text; raises ValueError or KeyError.
        wanted: What the text must be.
        about: One line of help.
        words: Texts to complete.
    """

    read: Callable[[str], Any]
    wanted: str
    about: str
    words: tuple[str, ...] = ()


def number(about: str, read: type = float) -> Kind:
    """A number, or a whole one."""
    wanted = "a number" if read is float else "a whole number"
    return Kind(read, wanted, about)


def maybe(read: Callable[[str], Any], wanted: str, about: str) -> Kind:
    """A value or none."""
    return Kind(
        lambda text: None if text in NONE else read(text),
        f"{wanted} or none",
        about,
        ("none",),
    )


def one_of(about: str, *words: str) -> Kind:
    """One of some words."""
    values = {word: word for word in words}
    return Kind(values.__getitem__, " or ".join(words), about, words)


def switch(about: str) -> Kind:
    """On or off."""
    return Kind(SWITCH.__getitem__, "on or off", about, tuple(SWITCH))


KINDS = {
    "temp": number("temperature; 0 is greedy"),
    "top_p": number("nucleus sampling; 1 is off"),
    "top_k": number("most likely tokens kept; 0 is off", int),
    "min_p": number("least share of the best; 0 is off"),
    "seed": maybe(int, "a whole number", "makes sampling repeatable"),
    "max_tokens": number("most tokens of an answer; -1 for no limit", int),
    "block_size": maybe(int, "a whole number", "rows of a pass; none: measured"),
    "thinking": one_of("whether the model reasons first", "auto", "on", "off"),
    "effort": maybe(str, "a word", "how hard it reasons, e.g. low or high"),
    "markdown": switch("render Markdown"),
    "drafts": switch("colour drafted tokens"),
    "reasoning": one_of("how reasoning is shown", "show", "fold", "hide"),
}


@dataclass(frozen=True)
class Settings:
    """The values now.

    Args:
        plain: Decode without drafts; /plain, not /set, changes it.
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

    @classmethod
    def of(
        cls,
        ask: AnswerRequest,
        thinking: ThinkingOptions | None = None,
        looks: Looks | None = None,
    ) -> Settings:
        """Those of the command line."""
        sampling: Sampling = ask.sampling
        thinking, looks = thinking or ThinkingOptions(), looks or Looks()
        return cls(
            temp=sampling.temp,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=sampling.seed,
            max_tokens=ask.max_tokens,
            block_size=ask.block_size,
            plain=ask.plain,
            thinking=thinking.thinking,
            effort=thinking.reasoning_effort,
            markdown=looks.markdown,
            drafts=looks.show_drafts,
            reasoning=looks.reasoning,
        )

    def changed(self, name: str, text: str) -> Settings:
        """With one value read from text; its range is not checked here.

        Raises:
            OptionError: There is no such setting, or the text is of another kind.
        """
        name = name.replace("-", "_")
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, n=1)
            hint = f"Did you mean {near[0]}? /set lists all." if near else "/set lists."
            raise OptionError(f"There is no setting {name!r}.", hint)
        try:
            value = KINDS[name].read(text)
        except (ValueError, KeyError):
            wanted = KINDS[name].wanted
            raise OptionError(f"{name} must be {wanted}, but is {text!r}.") from None
        return replace(self, **{name: value})

    def apply(self, ask: AnswerRequest) -> AnswerRequest:
        """The options of the next answer.

        Raises:
            OptionError: A value is out of its range, as on the command line.
        """
        values = {name: vars(self)[name] for name in SAMPLING}
        asked = replace(
            ask,
            sampling=replace(ask.sampling, **values),
            max_tokens=self.max_tokens,
            plain=False,
            block_size=self.block_size,
        )
        # What was loaded stays; only what decodes it changes.
        aside = dict.fromkeys(("draft", "draft_window", "draft_quantize", "block_size"))
        aside["plain"] = True
        return replace(asked, **aside) if self.plain else asked

    @property
    def thought(self) -> Thinking:
        """What is asked of the model's reasoning."""
        return Thinking(self.thinking, self.effort)

    def template(self, tokenizer: TokenizerWrapper) -> dict[str, Any]:
        """Arguments for the chat template.

        Raises:
            OptionError: The template has no such switch.
        """
        return self.thought.template_arguments(tokenizer)

    def given(self) -> set[str]:
        """Names of those that are not the command line's defaults."""
        defaults = Settings.of(AnswerRequest()).as_dict()
        return {k for k, value in self.as_dict().items() if value != defaults[k]}

    def as_dict(self) -> dict[str, Any]:
        """What /set can change, by name."""
        values = {each.name: vars(self)[each.name] for each in fields(self)}
        return {name: values[name] for name in KINDS}


def written(value: Any) -> str:
    """A value as /set would take it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return str(value)
