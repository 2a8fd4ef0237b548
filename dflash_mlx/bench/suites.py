"""What a benchmark asks: classes of prompts, and their token ids.

Owns the built-in suite (prompts.toml) and padding to a context length. Knows no model
and measures nothing; data sets that must be fetched are published.py's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..engine import encode
from ..errors import OptionError, PromptError
from ..text.chat_template import apply_template
from ..train.exercises import draw

EXERCISES, RANDOM = "exercises", "random"
# Random prompts have so many tokens, where no context asks for more.
RANDOM_TOKENS = 64


@dataclass(frozen=True)
class Prompt:
    """One thing that is asked.

    Args:
        kind: Its class.
        text: The user's message, or what the ids spell.
        ids: Token ids that are the whole prompt, in place of a chat.
        endless: Tokens that end a text do not end the answer.
    """

    kind: str
    text: str
    ids: tuple[int, ...] = ()
    endless: bool = False

    @property
    def name(self) -> str:
        """How it begins."""
        return " ".join(self.text.split())[:48]


@cache
def texts() -> dict[str, Any]:
    """prompts.toml: the filling text, and each class's `asks`."""
    return tomllib.loads((files(__package__) / "prompts.toml").read_text("utf-8"))


def classes() -> tuple[str, ...]:
    """The classes of the built-in suite."""
    return (*(name for name in texts() if name != "text"), EXERCISES, RANDOM)


def builtin(
    tokenizer: TokenizerWrapper,
    wanted: Sequence[str] = (),
    *,
    context: int = 2048,
    samples: int = 3,
    seed: int = 0,
) -> list[Prompt]:
    """The built-in prompts of some classes, or of all.

    Args:
        tokenizer: Counts the tokens of long contexts, and gives random ones.
        wanted: Classes.
        context: Tokens of text in a prompt of the class `long-context`.
        samples: Prompts at most of a class.
        seed: Of the random prompts.

    Raises:
        OptionError: A class is not known.
    """
    if unknown := [name for name in wanted if name not in classes()]:
        raise OptionError(
            f"There is no class {unknown[0]!r}.", f"Choose from {', '.join(classes())}."
        )
    found = []
    for kind in wanted or classes():
        if kind == EXERCISES:
            found += exercises(samples)
        elif kind == RANDOM:
            found += [scrambled(tokenizer, seed + i) for i in range(min(samples, 2))]
        else:
            found += [
                Prompt(kind, fill_in(tokenizer, ask, context))
                for ask in texts()[kind]["asks"][:samples]
            ]
    return found


def exercises(samples: int) -> list[Prompt]:
    """What the embedded pair was taught, with numbers that it was not shown."""
    rng = Random(2026)
    return [Prompt(EXERCISES, draw(rng, held_out=True)[0]) for _ in range(samples)]


def scrambled(
    tokenizer: TokenizerWrapper, seed: int, count: int = RANDOM_TOKENS
) -> Prompt:
    """A prompt of random tokens, after which nothing in particular must follow."""
    ids = random_ids(tokenizer, seed, count)
    return Prompt(RANDOM, tokenizer.decode(ids), tuple(ids), endless=True)


def random_ids(tokenizer: TokenizerWrapper, seed: int, count: int) -> list[int]:
    """Ids that are no special tokens."""
    special, rng = set(tokenizer.all_special_ids), Random(seed)
    usual = [i for i in range(tokenizer.vocab_size) if i not in special]
    return rng.choices(usual, k=count)


def fill_in(tokenizer: TokenizerWrapper, ask: str, context: int) -> str:
    """A prompt with its texts in place."""
    text = texts()["text"].strip()
    ask = ask.replace("{text}", text)
    if "{long}" in ask:
        ask = ask.replace("{long}", filling(tokenizer, context))
    return ask


def filling(tokenizer: TokenizerWrapper, count: int) -> str:
    """About `count` tokens of the built-in text, in numbered parts."""
    ids, part = [], 0
    while len(ids) < count:
        part += 1
        text = f"Part {part}.\n{texts()['text']}\n"
        ids += tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.decode(ids[:count])


def padded(tokenizer: TokenizerWrapper, prompt: Prompt, context: int) -> Prompt:
    """A prompt with text put before it, so that it has about `context` tokens; one
    that is longer stays as it is."""
    if prompt.ids:
        more = max(0, context - len(prompt.ids))
        ids = (*random_ids(tokenizer, context, more), *prompt.ids)
        return Prompt(prompt.kind, tokenizer.decode(ids), ids, prompt.endless)
    more = context - len(tokenizer.encode(prompt.text, add_special_tokens=False))
    if more <= 0:
        return prompt
    text = f"{filling(tokenizer, more)}\n\n{prompt.text}"
    return Prompt(prompt.kind, text, endless=prompt.endless)


def ids_of(
    tokenizer: TokenizerWrapper, prompt: Prompt, template: dict[str, Any]
) -> list[int]:
    """The token ids of a prompt, in the model's chat template if it has one.

    Args:
        tokenizer: The model's.
        prompt: What is asked.
        template: Options for the chat template.
    """
    if prompt.ids:
        return list(prompt.ids)
    if not tokenizer.has_chat_template:
        return encode(tokenizer, prompt.text)
    messages = [{"role": "user", "content": prompt.text}]
    return apply_template(tokenizer, messages, **template)


def check_room(ids: Sequence[int], max_tokens: int, context: int | None) -> None:
    """Raise PromptError where an answer would be cut by the model's context."""
    if context is not None and len(ids) + max_tokens > context:
        raise PromptError(
            f"A prompt of {len(ids)} tokens and {max_tokens} of an answer do not fit "
            f"into the model's context of {context}.",
            "Ask for less with --contexts, --context or --max-tokens, or leave the "
            "class long-context out.",
        )
