"""The embedded pair, and the rows of a small real benchmark."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from dflash_mlx import load
from dflash_mlx.bench import results, suites
from dflash_mlx.bench.benchmark import Settings, contenders_of, measure

QUICK = Settings(max_tokens=24, repeats=2, warmup=4)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def tiny_float32():
    """The embedded pair in float32, and its tokenizer."""
    pair, tokenizer = load("tiny")
    pair.model.set_dtype(mx.float32)
    pair.drafter.set_dtype(mx.float32)
    return pair, tokenizer


@pytest.fixture(scope="session")
def rows():
    """Rows of two classes with plain decoding, auto, a fixed width and stock mlx-lm."""
    pair, tokenizer = load("tiny")
    prompts = suites.builtin(tokenizer, ("exercises", "random"), samples=1)
    contenders = contenders_of(pair, tokenizer, (None, 4), mlx_lm=True)
    settings = replace(QUICK, endless=True)
    return results.rows_of(measure(contenders, prompts, settings, tokenizer, pair))
