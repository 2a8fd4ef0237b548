"""Choices and noise: mlx-lm's filters, positions, and the distribution of text."""

import math

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_sampler

from dflash_mlx import Pair, Sampling
from dflash_mlx.decoding.sampling import Chooser
from dflash_mlx.errors import OptionError
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    run,
    some_prompt,
)

VOCAB = 40
LOGITS = mx.random.normal((6, VOCAB), key=mx.random.key(3)) * 3


def test_greedy_is_argmax():
    chooser = Chooser(Sampling())
    assert mx.array_equal(chooser.choose(LOGITS, range(6)), mx.argmax(LOGITS, axis=-1))


@pytest.mark.parametrize("dtype", (mx.float32, mx.bfloat16))
@pytest.mark.parametrize(
    "options",
    [{}, {"top_p": 0.7}, {"top_k": 5}, {"min_p": 0.1}, {"xtc_probability": 0.6}],
)
def test_a_row_chooses_the_same_in_any_company(options, dtype):
    chooser = Chooser(Sampling(temp=1.0, seed=8, **options))
    logits = LOGITS.astype(dtype)
    together = chooser.choose(logits, range(10, 16)).tolist()
    alone = [chooser.choose(logits[i : i + 1], [10 + i]).item() for i in range(6)]
    assert together == alone
    moved = chooser.choose(logits, range(11, 17)).tolist()
    assert moved != together  # the noise does depend on the position


def test_seeds_differ_and_repeat():
    def pick(seed):
        sampling = Sampling(temp=2.0, seed=seed)
        return Chooser(sampling).choose(LOGITS, range(6)).tolist()

    assert pick(1) == pick(1) != pick(2)


def test_without_a_seed_mlxs_own_generator_decides():
    def pick():
        return Chooser(Sampling(temp=2.0)).choose(LOGITS, range(6)).tolist()

    mx.random.seed(7)
    first, second = pick(), pick()
    mx.random.seed(7)
    assert pick() == first != second


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.6},
        {"top_k": 4},
        {"min_p": 0.2},
        {"min_p": 0.9, "min_tokens_to_keep": 3},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05, "top_k": 8},
        {"top_p": 0.9, "top_k": 6, "min_p": 0.02},
    ],
)
def test_filters_keep_what_mlx_lms_keep(options):
    row = LOGITS[:1]
    ours = {
        Chooser(Sampling(temp=9.0, seed=s, **options)).choose(row, [s]).item()
        for s in range(300)
    }
    sampler = make_sampler(9.0, **options)
    logprobs = row - mx.logsumexp(row, keepdims=True)
    theirs = {sampler(logprobs).item() for _ in range(300)}
    # At this temperature each of a few tokens left is seen by both.
    assert ours == theirs and len(ours) < VOCAB / 2


def test_candidates_use_the_noise_of_their_ids():
    chooser = Chooser(Sampling(temp=1.0, seed=3))
    chooser.process(LOGITS, None)
    ids = mx.argsort(-LOGITS, axis=-1)
    logits = mx.take_along_axis(LOGITS, ids, axis=-1)
    whole = chooser.choose(LOGITS, range(6)).tolist()
    assert chooser.choose(logits, range(6), ids).tolist() == whole


def chi_square_bound(freedom: int, z: float) -> float:
    """Upper quantile of chi-square at normal quantile z (Wilson and Hilferty)."""
    a = 2 / (9 * freedom)
    return freedom * (1 - a + z * math.sqrt(a)) ** 3


# One-sided normal quantile of an error rate of 1e-5 a comparison; with four
# comparisons a drafter, a right program fails this test once in 12,500 runs.
Z = 4.265
RUNS = 1500


@pytest.fixture(scope="module")
def plain():
    """A model, a prompt, and mlx-lm's first four sampled tokens, many times over."""
    model, prompt = make_model("llama", seed=2), some_prompt(6)
    sampler = make_sampler(1.5, top_k=12)
    texts = []
    for _ in range(RUNS):
        steps = generate_step(mx.array(prompt), model, max_tokens=4, sampler=sampler)
        texts.append([token for token, _ in steps])
    return model, prompt, texts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("untrained", "scripted"))
def test_the_first_four_tokens_are_distributed_as_mlx_lms(plain, kind):
    model, prompt, theirs = plain
    drafter = make_drafter()
    if kind == "scripted":
        drafter = Fixed(prompt + run(Pair.of(model), prompt, 8))
    pair = Pair.of(model, drafter)
    ours = [
        run(pair, prompt, 4, sampling=Sampling(temp=1.5, top_k=12, seed=seed))
        for seed in range(RUNS)
    ]
    for place in range(4):
        a, b = ([text[place] for text in side] for side in (ours, theirs))
        statistic, freedom = two_samples(a, b)
        assert freedom >= 5
        assert statistic < chi_square_bound(freedom, Z)


class Fixed(Script):
    """Proposes one text whatever was said, so that drafts are often wrong."""

    def __init__(self, text):
        super().__init__(text, [99])

    def propose(self, anchor, cache, width, choose):
        at = cache[0].offset + 1
        ids = (self.text[at:] + [0] * width)[: width - 1]
        return mx.array([ids], dtype=mx.uint32)


def two_samples(a, b):
    """Chi-square statistic and degrees of freedom of two equally large samples, rare
    outcomes pooled."""
    counts = [(a.count(x), b.count(x)) for x in set(a) | set(b)]
    common = [pair for pair in counts if sum(pair) >= 20]
    rare = [pair for pair in counts if sum(pair) < 20]
    if rare:
        common.append((sum(x for x, _ in rare), sum(y for _, y in rare)))
    return sum((x - y) ** 2 / (x + y) for x, y in common), len(common) - 1


@pytest.mark.parametrize(
    "options",
    [
        {"temp": -0.1},
        {"top_p": 1.2},
        {"top_k": -1},
        {"min_p": 2},
        {"seed": -1},
        {"xtc_threshold": 0.7},
        {"xtc_probability": 1.5},
        {"repetition_penalty": 0},
        {"repetition_context_size": 0},
        {"min_tokens_to_keep": 0},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: float("nan")}},
    ],
)
def test_bad_options(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Sampling(**options)


def test_a_samplers_own_randomness_leaves_the_callers_alone():
    chooser = Chooser(Sampling(seed=1), sampler=make_sampler(1.0))
    mx.random.seed(5)
    wanted = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(5)
    chooser.choose(LOGITS, range(6))
    assert mx.random.uniform(shape=(3,)).tolist() == wanted


def test_a_bias_beyond_the_vocabulary_is_refused():
    chooser = Chooser(Sampling(logit_bias={VOCAB: 1.0}))
    with pytest.raises(OptionError, match="names token 40"):
        chooser.process(LOGITS[:1], mx.array([1]))
