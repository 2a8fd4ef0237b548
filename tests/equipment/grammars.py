"""Random JSON schemas, and tiny random models that speak the embedded tokenizer."""

from __future__ import annotations

import random
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer

import dflash_mlx
from dflash_mlx import Sampling, decode
from dflash_mlx.text.grammar import Grammar
from tests.equipment.random_weights import randomize_weights
from tests.equipment.tiny import FAMILIES

FOLDER = Path(dflash_mlx.__file__).parent / "models" / "tiny"
# Wider than the tokenizer, as padded models are.
WIDTH = 520


@cache
def tiny_tokenizer() -> TokenizerWrapper:
    """The tokenizer of the embedded pair: 512 tokens, of which 2 ends an answer."""
    return load_tokenizer(FOLDER)


@cache
def make_speaker(family: str = "llama", dtype: str = "float32", seed: int = 0):
    """A random model of a family with the embedded tokenizer's vocabulary, padded."""
    mx.random.seed(seed)
    module = import_module(f"mlx_lm.models.{family}")
    shape = FAMILIES[family] | {"model_type": family, "vocab_size": WIDTH}
    return randomize_weights(module.Model(module.ModelArgs.from_dict(shape)), dtype)


def encode(text: str) -> list[int]:
    """The tokens of a text, without special ones."""
    return tiny_tokenizer().encode(text, add_special_tokens=False)


def text_of(tokens: list[int]) -> str:
    """The text of tokens, without one that ends the answer."""
    return tiny_tokenizer().decode([token for token in tokens if token != 2])


def answer(pair, prompt, grammar: Grammar, tokens: int = 400, **options):
    """The tokens of a constrained answer, and its rounds."""
    rounds = list(decode(pair, prompt, max_tokens=tokens, grammar=grammar, **options))
    return [token for round in rounds for token in round.tokens], rounds


def random_sampling(draw: random.Random) -> Sampling:
    """Greedy, or with a temperature, filters, penalties and a bias."""
    values: dict[str, Any] = {"seed": draw.randrange(1000)}
    if draw.random() < 0.7:
        values["temp"] = draw.choice((0.3, 0.8, 1.0, 1.5))
        values["top_p"] = draw.choice((1.0, 0.95, 0.6))
        values["top_k"] = draw.choice((0, 0, 1, 5, 40))
        values["min_p"] = draw.choice((0.0, 0.0, 0.1))
        values["xtc_probability"] = draw.choice((0.0, 0.0, 0.5))
    if draw.random() < 0.3:
        values["repetition_penalty"] = draw.choice((1.1, 1.5))
        values["presence_penalty"] = draw.choice((None, 0.5))
    if draw.random() < 0.3:
        values["logit_bias"] = {draw.randrange(512): draw.uniform(-9, 9)}
    return Sampling(**values)


def random_root(draw: random.Random) -> dict[str, Any]:
    """A random schema, of which some refer to a part of themselves."""
    if draw.random() < 0.8:
        return random_schema(draw)
    part = {"$ref": "#/$defs/part"}
    items = {"type": "array", "items": part, "maxItems": 2}
    return {"$defs": {"part": random_schema(draw, 1)}} | items


def random_schema(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose values are short, whatever a model prefers."""
    kinds = [string, integer, number, choice, constant, pattern, boolean, null]
    if depth:
        kinds += [array, record, record, either, pair_of]
    return draw.choice(kinds)(draw, depth - 1)


def string(draw, depth):
    least = draw.randrange(3)
    return {"type": "string", "minLength": least, "maxLength": least + 5}


def integer(draw, depth):
    low = draw.randrange(-50, 50)
    bounds = {"minimum": low, "maximum": low + draw.randrange(1, 500)}
    return {"type": "integer"} | bounds


def number(draw, depth):
    return {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 10**4}


def choice(draw, depth):
    values = ["red", "green", 'a "quoted" word', 7, None, True, [1, 2], {"a": 1}]
    return {"enum": draw.sample(values, draw.randrange(1, 5))}


def constant(draw, depth):
    return {"const": draw.choice(["Compute the product", 12, {"x": [1, "y"]}])}


def pattern(draw, depth):
    patterns = ["^[a-z]{2,5}$", "^(yes|no|may be)$", "^[A-Z][0-9]{3}-[xyz]$"]
    return {"type": "string", "pattern": draw.choice(patterns)}


def boolean(draw, depth):
    return {"type": "boolean"}


def null(draw, depth):
    return {"type": draw.choice(["null", "boolean"])}


def array(draw, depth):
    least = draw.randrange(2)
    bounds = {"minItems": least, "maxItems": least + draw.randrange(1, 3)}
    return {"type": "array", "items": random_schema(draw, depth)} | bounds


def record(draw, depth):
    words = ["name", "total", "is valid", "x", 'a"b', "numbers", "Compute"]
    names = draw.sample(words, draw.randrange(1, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(draw, depth) for name in names},
        "required": [name for name in names if draw.random() < 0.7],
        "additionalProperties": False,
    }


def either(draw, depth):
    return {"anyOf": [random_schema(draw, depth) for _ in range(2)]}


def pair_of(draw, depth):
    items = [random_schema(draw, depth) for _ in range(2)]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
