"""The prompts of a benchmark: the built-in classes, and their token ids.

Owns the built-in suite (prompts.toml) and padding to a context length. Does not know
models, measurements or data sets from the Hub (data_sets.py).
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

from ..errors import OptionError, PromptError
from ..text.chat_template import apply_template
from ..text.prompt import encode
from ..train.exercises import draw

EXERCISES, RANDOM = "exercises", "random"
# Length of a random prompt without padding.
RANDOM_TOKENS = 64


@dataclass(frozen=True)
class Prompt:
    """A prompt of a suite.

    Args:
        kind: Class of the prompt.
        text: The user's message, or the decoded ids.
        ids: Token ids of the whole prompt, used instead of the chat template.
        endless: Do not stop the answer at end-of-text tokens.
    """

    kind: str
    text: str
    ids: tuple[int, ...] = ()
    endless: bool = False

    @property
    def name(self) -> str:
        """The first 48 characters, on one line."""
        return " ".join(self.text.split())[:48]


@cache
def read_prompts() -> dict[str, Any]:
    """prompts.toml: the filler `text`, and a table with `prompts` for each class."""
    return tomllib.loads((files(__package__) / "prompts.toml").read_text("utf-8"))


def classes() -> tuple[str, ...]:
    """The classes of the built-in suite."""
    return (*(name for name in read_prompts() if name != "text"), EXERCISES, RANDOM)


def builtin(
    tokenizer: TokenizerWrapper,
    wanted: Sequence[str] = (),
    *,
    context: int = 2048,
    samples: int = 3,
    seed: int = 0,
) -> list[Prompt]:
    """The built-in prompts of some classes.

    Args:
        tokenizer: Counts the tokens of long contexts, and provides random tokens.
        wanted: Names of the classes; empty for all.
        context: Tokens of text in a prompt of the class `long-context`.
        samples: Maximum number of prompts in a class.
        seed: Seed of the random prompts.

    Raises:
        OptionError: A class is unknown.
    """
    if unknown := [name for name in wanted if name not in classes()]:
        raise OptionError(
            f"There is no class {unknown[0]!r}.", f"Choose from {', '.join(classes())}."
        )
    found = []
    for kind in wanted or classes():
        if kind == EXERCISES:
            found += exercise_prompts(samples)
        elif kind == RANDOM:
            found += [
                random_prompt(tokenizer, seed + i) for i in range(min(samples, 2))
            ]
        else:
            found += [
                Prompt(kind, insert_texts(tokenizer, prompt, context))
                for prompt in read_prompts()[kind]["prompts"][:samples]
            ]
    return found


def exercise_prompts(samples: int) -> list[Prompt]:
    """Held-out exercises of the kinds that the embedded pair was trained on."""
    rng = Random(2026)
    return [Prompt(EXERCISES, draw(rng, held_out=True)[0]) for _ in range(samples)]


def random_prompt(
    tokenizer: TokenizerWrapper, seed: int, count: int = RANDOM_TOKENS
) -> Prompt:
    """A prompt of random tokens, after which no token is predictable."""
    ids = random_ids(tokenizer, seed, count)
    return Prompt(RANDOM, tokenizer.decode(ids), tuple(ids), endless=True)


def random_ids(tokenizer: TokenizerWrapper, seed: int, count: int) -> list[int]:
    """Random token ids without special tokens."""
    special, rng = set(tokenizer.all_special_ids), Random(seed)
    ordinary = [i for i in range(tokenizer.vocab_size) if i not in special]
    return rng.choices(ordinary, k=count)


def insert_texts(tokenizer: TokenizerWrapper, prompt: str, context: int) -> str:
    """A prompt with {text} and {long} replaced."""
    prompt = prompt.replace("{text}", read_prompts()["text"].strip())
    if "{long}" in prompt:
        prompt = prompt.replace("{long}", filler_text(tokenizer, context))
    return prompt


def filler_text(tokenizer: TokenizerWrapper, count: int) -> str:
    """About `count` tokens of the built-in text, repeated in numbered parts."""
    ids, part = [], 0
    while len(ids) < count:
        part += 1
        text = f"Part {part}.\n{read_prompts()['text']}\n"
        ids += tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.decode(ids[:count])


def pad_prompt(tokenizer: TokenizerWrapper, prompt: Prompt, context: int) -> Prompt:
    """Put text before a prompt, so that it has about `context` tokens.

    A longer prompt is returned unchanged.
    """
    if prompt.ids:
        missing = max(0, context - len(prompt.ids))
        ids = (*random_ids(tokenizer, context, missing), *prompt.ids)
        return Prompt(prompt.kind, tokenizer.decode(ids), ids, prompt.endless)
    missing = context - len(tokenizer.encode(prompt.text, add_special_tokens=False))
    if missing <= 0:
        return prompt
    text = f"{filler_text(tokenizer, missing)}\n\n{prompt.text}"
    return Prompt(prompt.kind, text, endless=prompt.endless)


def prompt_ids(
    tokenizer: TokenizerWrapper, prompt: Prompt, template: dict[str, Any]
) -> list[int]:
    """The token ids of a prompt, in the model's chat template if it has one.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        template: Options of the chat template.
    """
    if prompt.ids:
        return list(prompt.ids)
    if not tokenizer.has_chat_template:
        return encode(tokenizer, prompt.text)
    messages = [{"role": "user", "content": prompt.text}]
    return apply_template(tokenizer, messages, **template)


def check_fits(ids: Sequence[int], max_tokens: int, context: int | None) -> None:
    """Check that a prompt and its answer fit into the model's context.

    Raises:
        PromptError: They do not.
    """
    if context is not None and len(ids) + max_tokens > context:
        raise PromptError(
            f"A prompt of {len(ids)} tokens and an answer of {max_tokens} do not fit "
            f"into the model's context of {context} tokens.",
            "Lower --contexts, --context or --max-tokens, or leave out the class "
            "long-context.",
        )
