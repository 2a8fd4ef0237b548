"""Choices of tokens: filters, noise by position, and the distribution of text."""

import math

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import apply_top_k, make_sampler

from dflash_mlx import Pair, Sampling
from dflash_mlx.decoding.sampling import Chooser, log_probabilities
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
def test_a_choice_does_not_depend_on_other_rows(options, dtype):
    chooser = Chooser(Sampling(temp=1.0, seed=8, **options))
    logits = LOGITS.astype(dtype)
    together = chooser.choose(logits, range(10, 16)).tolist()
    alone = [chooser.choose(logits[i : i + 1], [10 + i]).item() for i in range(6)]
    assert together == alone
    moved = chooser.choose(logits, range(11, 17)).tolist()
    assert moved != together  # the noise depends on the position


def test_seeds_differ_and_repeat():
    def pick(seed):
        sampling = Sampling(temp=2.0, seed=seed)
        return Chooser(sampling).choose(LOGITS, range(6)).tolist()

    assert pick(1) == pick(1) != pick(2)


def test_without_a_seed_mlxs_generator_is_used():
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
def test_filters_keep_the_same_tokens_as_mlx_lms(options):
    row = LOGITS[:1]
    ours = {
        Chooser(Sampling(temp=9.0, seed=s, **options)).choose(row, [s]).item()
        for s in range(300)
    }
    sampler = make_sampler(9.0, **options)
    logprobs = row - mx.logsumexp(row, keepdims=True)
    theirs = {sampler(logprobs).item() for _ in range(300)}
    # At this temperature both choose each of the few remaining tokens.
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


# One-sided normal quantile for an error rate of 1e-5 per comparison. With four
# comparisons per drafter a correct program fails once in 12,500 runs.
Z = 4.265
TEMP, TOP_K = 1.5, 12


@pytest.fixture(scope="module")
def sampled():
    """A model, a prompt, and the chances [V] of mlx-lm's next four tokens each, summed
    over all texts that its sampler can produce."""
    model, prompt = make_model("llama", seed=2), some_prompt(6)
    texts, weights, chances = mx.array([prompt]), mx.ones((1,)), []
    for _ in range(4):
        logprobs = log_probabilities(model(texts)[:, -1])
        kept = mx.softmax(apply_top_k(logprobs, TOP_K) / TEMP, axis=-1)
        chances.append((weights[:, None] * kept).sum(axis=0).tolist())
        ids = mx.argsort(-kept, axis=-1)[:, :TOP_K]
        weights = (weights[:, None] * mx.take_along_axis(kept, ids, 1)).reshape(-1)
        texts = mx.concatenate(
            [mx.repeat(texts, TOP_K, axis=0), ids.reshape(-1, 1)], axis=1
        )
        mx.eval(texts, weights)
    return model, prompt, chances


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runs"),
    [
        ("scripted", 400),
        pytest.param("scripted", 800, marks=pytest.mark.full("loop")),
        pytest.param("untrained", 800, marks=pytest.mark.full("loop")),
    ],
)
def test_the_first_four_tokens_have_mlx_lms_distribution(sampled, kind, runs):
    model, prompt, chances = sampled
    drafter = make_drafter()
    if kind == "scripted":
        drafter = FixedText(prompt + run(Pair.of(model), prompt, 8))
    pair = Pair.of(model, drafter)
    ours = [
        run(pair, prompt, 4, sampling=Sampling(temp=TEMP, top_k=TOP_K, seed=seed))
        for seed in range(runs)
    ]
    for place in range(4):
        statistic, freedom = chi_square(chances[place], [text[place] for text in ours])
        assert freedom >= 5
        assert statistic < chi_square_bound(freedom, Z)


@pytest.mark.slow
def test_the_chances_equal_mlx_lms_sampler(sampled):
    """Checks the fixture above with 1,200 texts from mlx-lm's sampler."""
    model, prompt, chances = sampled
    sampler, texts = make_sampler(TEMP, top_k=TOP_K), mx.array([prompt] * 1200)
    mx.random.seed(7)
    for place in range(4):
        if place == 0:  # one row is enough for equal prompts
            logits = mx.repeat(model(texts[:1])[:, -1], len(texts), axis=0)
        else:
            logits = model(texts)[:, -1]
        token = sampler(log_probabilities(logits))
        statistic, freedom = chi_square(chances[place], token.tolist())
        assert statistic < chi_square_bound(freedom, Z)
        texts = mx.concatenate([texts, token[:, None]], axis=1)
        mx.eval(texts)


class FixedText(Script):
    """Proposes the same text for any context, so that drafts are often wrong."""

    def __init__(self, text):
        super().__init__(text, [99])

    def propose(self, anchor, cache, width, choose):
        at = cache[0].offset + 1
        ids = (self.text[at:] + [0] * width)[: width - 1]
        return mx.array([ids], dtype=mx.uint32)


def chi_square(chances, tokens):
    """Chi-square statistic and degrees of freedom of tokens, given their chances. Rare
    tokens are pooled."""
    cells = [(tokens.count(i), len(tokens) * p) for i, p in enumerate(chances)]
    assert not any(seen for seen, wanted in cells if wanted == 0)
    rare = [cell for cell in cells if 0 < cell[1] < 8]
    cells = [cell for cell in cells if cell[1] >= 8]
    if rare:
        cells.append((sum(seen for seen, _ in rare), sum(n for _, n in rare)))
    return sum((seen - n) ** 2 / n for seen, n in cells), len(cells) - 1


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


def test_a_sampler_does_not_change_the_callers_generator():
    chooser = Chooser(Sampling(seed=1), sampler=make_sampler(1.0))
    mx.random.seed(5)
    wanted = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(5)
    chooser.choose(LOGITS, range(6))
    assert mx.random.uniform(shape=(3,)).tolist() == wanted


def test_a_bias_outside_the_vocabulary_is_an_error():
    chooser = Chooser(Sampling(logit_bias={VOCAB: 1.0}))
    with pytest.raises(OptionError, match="names token 40"):
        chooser.process(LOGITS[:1], mx.array([1]))
