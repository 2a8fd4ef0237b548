"""Passes over the rows of several texts give every text what its own pass gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from benchmarks.examine import cached_arrays
from dflash_mlx.cache import kinds
from dflash_mlx.errors import UnsupportedError
from dflash_mlx.hub.architectures import DRAFTS, read
from dflash_mlx.models.targets import make_target
from dflash_mlx.models.targets.base import Target
from dflash_mlx.models.targets.batched import group_rows
from dflash_mlx.models.targets.views import with_call
from tests.equipment import architectures
from tests.equipment.tiny import make_model

# Families whose own code needs the number of rows in the cache, or its parts.
REFUSED = ("gpt2", "gpt_bigcode", "llama4")
ALL = tuple(f.name for f in read()[1] if f.verdict == DRAFTS and f.name not in REFUSED)
# Attention over growing, rotating and shared rows, with sinks, latent, scaled by
# position; gated delta rules, state-space layers, short convolutions, token shifts.
KINDS = (
    "qwen3",
    "gemma3_text",
    "gemma4_text",
    "gpt_oss",
    "deepseek_v3",
    "mistral3",
    "qwen3_next",
    "falcon_h1",
    "lfm2",
    "rwkv7",
)
FULL = pytest.mark.full("targets")
TAPS = (2, 0)
MOST = 5  # texts at a time


def some_tokens(rng: random.Random, n: int) -> mx.array:
    """Random token ids [1, n]."""
    return mx.array([[rng.randrange(1, 95) for _ in range(n)]], mx.uint32)


def same(ours: list[mx.array], theirs: list[mx.array]) -> bool:
    """Whether all arrays have the same bits."""
    pairs = list(zip(ours, theirs, strict=True))
    return all(a.dtype == b.dtype and mx.array_equal(a, b) for a, b in pairs)


class Schedule:
    """Texts that are passed together, each compared with a copy that is passed alone.

    Args:
        target: The target.
        seed: Seed of the tokens, lengths, widths and accepted rows.
        make_cache: Makes the cache of the text of a number.
    """

    def __init__(
        self,
        target: Target,
        seed: int,
        make_cache: Callable[[int], list[Any]] | None = None,
    ):
        self.target, self.rng = target, random.Random(seed)
        self.make_cache = make_cache or (lambda number: target.make_cache())
        self.together: list[list[Any]] = []
        self.alone: list[list[Any]] = []
        self.added = 0

    def add(self) -> None:
        """Add a text with a prompt of 1 to 40 rows."""
        prompt = some_tokens(self.rng, self.rng.randint(1, 40))
        for group in (self.together, self.alone):
            group.append(self.make_cache(self.added))
            self.target.forward(prompt, group[-1], TAPS)
        self.added += 1

    def remove(self) -> None:
        """Remove a text."""
        i = self.rng.randrange(len(self.alone))
        del self.together[i], self.alone[i]

    def step(self, widths: list[int] | None = None) -> None:
        """Pass a block of every text, compare, keep some rows of each, compare."""
        widths = widths or [self.rng.randint(1, 9) for _ in self.alone]
        blocks = [some_tokens(self.rng, n) for n in widths]
        found = self.target.verify_many(blocks, self.together, TAPS)
        for block, ours, theirs, outputs in zip(
            blocks, self.together, self.alone, found, strict=True
        ):
            logits, features, tape = self.target.verify(block, theirs, TAPS)
            assert same(list(outputs[:2]), [logits, features])
            n, keep = block.shape[1], self.rng.randint(1, block.shape[1])
            self.target.commit(ours, outputs[2], n, keep)
            self.target.commit(theirs, tape, n, keep)
            assert same(list(cached_arrays(ours)), list(cached_arrays(theirs)))
            for a, b in zip(kinds.flat(ours), kinds.flat(theirs), strict=True):
                assert a.size() == b.size()

    def run(self, rounds: int) -> None:
        """Run rounds of 2 to 5 texts. A text leaves after every third round."""
        for number in range(rounds):
            if number % 3 == 2:
                self.remove()
            wanted = self.rng.randint(2, MOST)
            while len(self.alone) < wanted:
                self.add()
            # A neighbour's mask has the right number of rows if widths are equal.
            n = self.rng.randint(2, 9)
            self.step([n] * len(self.alone) if number % 3 == 1 else None)


@pytest.mark.parametrize("family", KINDS)
def test_random_schedules(family):
    Schedule(make_target(architectures.build(family)), 1).run(6)


@FULL
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", ALL)
def test_random_schedules_of_every_family(family, seed):
    Schedule(make_target(architectures.build(family)), seed).run(12)


@pytest.mark.slow
@pytest.mark.parametrize("family", ("qwen3", "qwen3_5", "gpt_oss"))
def test_quantized_targets_in_bfloat16(family):
    Schedule(make_target(architectures.build(family, "bfloat16-4bit")), 2).run(6)


@FULL
@pytest.mark.parametrize("dtype", ("4bit", "bfloat16-4bit", "bfloat16"))
@pytest.mark.parametrize("family", ALL)
def test_dtypes_of_every_family(family, dtype):
    target = make_target(architectures.build(family, dtype))
    try:
        mx.eval(target.forward(mx.array([[1, 2]]), target.make_cache()))
    except (ValueError, RuntimeError) as error:
        pytest.skip(f"MLX cannot run it on this machine: {error}")
    Schedule(target, 3).run(8)


def kind_of_cache(target: Target, number: int) -> list[Any]:
    """A growing, a quantized, or a bounded cache, in turn."""
    cache = target.make_cache(20 if number % 3 == 2 else None)
    if number % 3 == 1:
        kinds.quantize(cache, 4, 32, 0)
    return cache


def test_texts_with_different_kinds_of_cache():
    target = make_target(make_model("qwen3"))
    Schedule(target, 4, lambda number: kind_of_cache(target, number)).run(8)


@pytest.mark.parametrize("family", ("ministral3", "mistral4"))
def test_queries_scaled_by_position(family):
    model = architectures.build(family)
    args = model.model.args
    start = {"original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.5}
    args.rope_parameters = args.rope_parameters | start
    Schedule(make_target(model), 8).run(4)


@pytest.mark.parametrize(
    ("widths", "most", "groups"),
    [
        ([], 16, []),
        ([9, 9, 7], 16, [[9], [9, 7]]),
        ([8, 8, 1, 20, 16], 16, [[8, 8], [1], [20], [16]]),
        ([1, 2, 3], 6, [[1, 2, 3]]),
    ],
)
def test_groups_of_rows(widths, most, groups):
    assert [widths[group] for group in group_rows(widths, most)] == groups


def test_exact_targets_pass_as_many_rows_as_kernels_take():
    model = architectures.build("gpt_oss")
    target, rows = make_target(model), []
    target.exact = True
    embedding = model.model.embed_tokens

    def count(run, ids):
        rows.append(ids.shape[1])
        return run(ids)

    schedule = Schedule(target, 5)
    schedule.run(5)
    model.model.embed_tokens = with_call(embedding, count)
    target.forget_views()
    while len(schedule.alone) < 3:
        schedule.add()
    del schedule.alone[3:], schedule.together[3:], rows[:]
    schedule.step([9, 9, 7])
    assert rows == [9, 16, 9, 9, 7]


@pytest.mark.parametrize("family", ("qwen3", "qwen3_next"))
def test_one_text_and_single_rows(family):
    schedule = Schedule(make_target(architectures.build(family)), 6)
    schedule.add()
    schedule.step([5])
    schedule.step([1])
    for _ in range(3):
        schedule.add()
    schedule.step([1, 1, 1, 1])
    schedule.step([9, 1, 1, 9])


@pytest.mark.parametrize(
    "family",
    ("qwen3", "gpt_oss", "gemma4_text", "qwen3_next", "qwen3_5", "lfm2", "nemotron_h"),
)
def test_projections_are_computed_once_for_all_texts(family, tmp_path):
    target = make_target(architectures.build(family, "4bit"))

    def multiplications(outputs):
        file = tmp_path / "graph.dot"
        mx.export_to_dot(str(file), *(array for out in outputs for array in out[:2]))
        return file.read_text().count("QuantizedMatmul")

    caches = [target.make_cache() for _ in range(3)]
    block = mx.array([[3, 1, 4]], mx.uint32)
    for cache in caches:
        mx.eval(target.forward(block, cache), list(cached_arrays(cache)))
    once = multiplications([target.verify(block, target.make_cache(), TAPS)])
    blocks = [block[:, :n] for n in (3, 1, 2)]
    assert once == multiplications(target.verify_many(blocks, caches, TAPS)) > 0


def test_the_model_does_not_change():
    model = architectures.build("qwen3_next")
    before = [type(module) for _, module in model.named_modules()]
    make_target(model).check_many(TAPS)
    assert [type(module) for _, module in model.named_modules()] == before


def test_a_pass_that_fails_does_not_change_the_next_one():
    target = make_target(architectures.build("qwen3_next"))
    blocks = [mx.array([[1, 2, 3]], mx.uint32), mx.array([[4]], mx.uint32)]
    broken = target.make_cache()
    broken[-1] = None
    with pytest.raises(AttributeError):
        target.verify_many(blocks, [target.make_cache(), broken])
    Schedule(target, 7).run(2)


@pytest.mark.parametrize("family", KINDS)
def test_check_accepts(family):
    make_target(architectures.build(family)).check_many(TAPS)


@pytest.mark.parametrize("family", REFUSED)
def test_check_refuses(family):
    target = make_target(architectures.build(family))
    with pytest.raises(UnsupportedError, match=f"{family} cannot pass the rows") as e:
        target.check_many(TAPS)
    assert e.value.hint == "Pass one text after the other."


@FULL
@pytest.mark.parametrize("family", ALL)
def test_check_accepts_every_other_family(family):
    make_target(architectures.build(family)).check_many(TAPS)
