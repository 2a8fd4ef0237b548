"""The loop gives mlx-lm's tokens in every family, dtype and width, at every stop."""

from itertools import islice

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from dflash_mlx import (
    Pair,
    PromptCache,
    Sampling,
    decode,
)
from dflash_mlx.errors import OptionError, PromptError
from dflash_mlx.types import KVBits
from tests.equipment.full import thinned
from tests.equipment.tiny import (
    DTYPES,
    FAMILIES,
    VOCAB,
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)

# MLX's CPU back end has no half-precision matmul of gathered experts.
TARGETS = [
    (family, dtype)
    for family in FAMILIES
    for dtype in DTYPES
    if (family, dtype) != ("qwen3_moe", "bfloat16")
]
TOKENS = 40
PROMPT = 20


@pytest.fixture(scope="module", params=TARGETS, ids="-".join)
def target(request):
    """A model, a prompt, and mlx-lm's greedy answer to it."""
    model = make_model(*request.param)
    prompt = some_prompt(PROMPT)
    answer = reference(model, prompt, TOKENS)
    assert len(set(answer)) > 10  # a repeating text would prove little
    return model, prompt, answer


@pytest.fixture(scope="module")
def small():
    """A float32 model, a prompt and mlx-lm's greedy answer."""
    model, prompt = make_model("llama"), some_prompt(PROMPT)
    return model, prompt, reference(model, prompt, TOKENS)


PLANS = {"right": [99], "wrong": [0], "mixed": [2, 0, 5, 1, 99, 3]}


BLOCKS = [(plan, width) for plan in PLANS for width in range(1, 17)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "block"), thinned(TARGETS, BLOCKS, "loop", 7), indirect=["target"]
)
def test_scripted_drafters_change_nothing(target, block):
    model, prompt, answer = target
    plan, width = block
    pair = Pair.of(model, Script(prompt + answer, PLANS[plan]))
    assert run(pair, prompt, TOKENS, block_size=width) == answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "width"), thinned(TARGETS, (2, 5, 8, 16), "loop", 4), indirect=["target"]
)
def test_untrained_drafter_changes_nothing(target, width):
    model, prompt, answer = target
    pair = Pair.of(model, make_drafter())
    assert run(pair, prompt, TOKENS, block_size=width) == answer


@pytest.mark.slow
def test_quantized_drafter_with_a_window_changes_nothing(target):
    model, prompt, answer = target
    pair = Pair.of(model, make_drafter(dtype="4bit", window=8))
    assert run(pair, prompt, TOKENS) == answer


def test_plain_decoding_equals_mlx_lms(target):
    model, prompt, answer = target
    assert run(Pair.of(model), prompt, TOKENS) == answer


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_caches_equal_plain_decodings_bit_for_bit(target, plan):
    model, prompt, answer = target
    plain = Pair.of(model)
    wanted = PromptCache(plain)
    run(plain, prompt, TOKENS, prompt_cache=wanted)
    pair = Pair.of(model, Script(prompt + answer, PLANS[plan]))
    cache = PromptCache(pair)
    options = {"max_tokens": TOKENS, "block_size": 8, "prompt_cache": cache}
    for _ in decode(pair, prompt, **options):
        rows = len(cache.tokens)
        assert cache.tokens + cache.tail == (prompt + answer)[: rows + 1]
        assert cache.drafter[0].offset <= rows
        assert {entry.offset for entry in cache.target} == {rows}
        same_rows(cache.target, wanted.target, rows)
    assert len(cache.tokens) == len(prompt) + TOKENS - 1


def same_rows(ours, theirs, rows):
    """Assert that two caches have the same bits in their first `rows` rows."""
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a.keys_and_values(), b.keys_and_values(), strict=True):
            assert mx.array_equal(x[..., :rows, :], y[..., :rows, :])


@pytest.mark.parametrize("length", (1, 2, 9, 17, 30))
def test_prompts_of_any_length_and_chunk(small, length):
    model = small[0]
    prompt = some_prompt(length)
    answer = reference(model, prompt, 12)
    for drafter in (make_drafter(), make_drafter(window=5)):
        pair = Pair.of(model, drafter)
        assert run(pair, prompt, 12, prefill_step_size=8) == answer


@pytest.mark.slow
def test_long_texts_for_which_the_caches_grow(small):
    model = small[0]
    prompt = some_prompt(30)
    answer = reference(model, prompt, 300)
    pair = Pair.of(model, Script(prompt + answer, [3, 7, 0]))
    assert run(pair, prompt, 300) == answer
    assert run(Pair.of(model, make_drafter(window=40)), prompt, 300) == answer


@pytest.mark.parametrize("most", range(1, 20))
def test_max_tokens_at_every_offset_of_a_block(small, most):
    model, prompt, answer = small
    pair = Pair.of(model, Script(prompt + answer, [99, 2], block_size=7))
    cache = PromptCache(pair)
    assert run(pair, prompt, most, prompt_cache=cache) == answer[:most]
    assert cache.tokens + cache.tail == prompt + answer[:most]


@pytest.mark.parametrize("at", range(20))
@pytest.mark.parametrize("width", (1, 7))
def test_stop_tokens_at_every_offset_of_a_block(small, at, width):
    model, prompt, answer = small
    stop = answer[at]
    wanted = answer[: answer.index(stop) + 1]
    pair = Pair.of(model, Script(prompt + answer, [99], block_size=7))
    cache = PromptCache(pair)
    options = {"stop_ids": {stop}, "block_size": width, "prompt_cache": cache}
    assert run(pair, prompt, TOKENS, **options) == wanted
    assert cache.tokens + cache.tail == prompt + wanted
    assert cache.target[0].offset == len(cache.tokens)


@pytest.mark.parametrize("at", range(1, 20))
def test_a_scan_cuts_before_the_commit(small, at):
    model, prompt, answer = small
    left = at

    def scan(tokens):
        nonlocal left
        left -= len(tokens)
        return len(tokens) + left if left <= 0 else None

    pair = Pair.of(model, Script(prompt + answer, [99], block_size=7))
    cache = PromptCache(pair)
    assert run(pair, prompt, TOKENS, scan=scan, prompt_cache=cache) == answer[:at]
    assert cache.target[0].offset == len(cache.tokens) == PROMPT + at - 1


@pytest.mark.slow
@pytest.mark.parametrize("speculate", (True, False))
@pytest.mark.parametrize("after", range(5))
def test_a_closed_generator_leaves_everything_usable(small, after, speculate):
    model, prompt, answer = small
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache, speculate=speculate)
    got = [token for round in islice(rounds, after) for token in round.tokens]
    rounds.close()
    assert got == answer[: len(got)]
    assert cache.target[0].offset == len(cache.tokens)
    if got:
        assert cache.drafter[0].offset == len(cache.tokens)
        more = run(pair, [], TOKENS - len(got), prompt_cache=cache)
        assert got + more == answer
    assert run(pair, prompt, TOKENS) == answer


def test_a_conversation_continues_in_its_caches(small):
    model, prompt, _ = small
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    first = run(pair, prompt, 9, prompt_cache=cache)
    second = some_prompt(7, seed=8)
    text = prompt + first + second
    assert run(pair, second, 9, prompt_cache=cache) == reference(model, text, 9)


SAMPLINGS = {
    "temperature": Sampling(temp=0.9, seed=3),
    "top-p": Sampling(temp=1.1, top_p=0.8, seed=3),
    "top-k": Sampling(temp=1.3, top_k=9, seed=4),
    "min-p": Sampling(temp=1.2, min_p=0.1, min_tokens_to_keep=2, seed=5),
    "xtc": Sampling(temp=1.2, xtc_probability=0.5, xtc_threshold=0.05, seed=6),
    "all filters": Sampling(
        temp=1.2, top_p=0.95, top_k=20, min_p=0.02, xtc_probability=0.3, seed=7
    ),
    "repetition": Sampling(repetition_penalty=1.4),
    "presence": Sampling(temp=0.8, presence_penalty=1.0, seed=9),
    "frequency": Sampling(temp=0.8, frequency_penalty=0.7, seed=9),
    "bias": Sampling(temp=0.8, logit_bias={3: 6.0, 7: -8.0}, seed=2),
    "everything": Sampling(
        temp=1.0,
        top_p=0.9,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        logit_bias={5: 2.0},
        seed=11,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name"), thinned(TARGETS, SAMPLINGS, "loop", 8), indirect=["target"]
)
def test_sampled_text_depends_on_neither_drafter_nor_width(target, name):
    model, prompt, _ = target
    options = {"sampling": SAMPLINGS[name]}
    plain = run(Pair.of(model), prompt, TOKENS, **options)
    if name != "repetition":
        assert plain != target[2]
    right = Script(prompt + plain, [99, 2])
    assert run(Pair.of(model, right), prompt, TOKENS, **options) == plain
    for width in (2, 8):
        pair = Pair.of(model, make_drafter())
        assert run(pair, prompt, TOKENS, block_size=width, **options) == plain


def test_mlx_lms_own_samplers_and_processors(small):
    model, prompt, answer = small
    pair, plain = Pair.of(model, make_drafter()), Pair.of(model)
    options = {
        "sampler": make_sampler(1.0, top_p=0.9, xtc_probability=0.4),
        "logits_processors": make_logits_processors({4: 3.0}, 1.3),
        "sampling": Sampling(seed=5),
    }
    sampled = run(plain, prompt, TOKENS, **options)
    assert sampled != answer
    assert run(pair, prompt, TOKENS, **options) == sampled
    greedy = {"logits_processors": make_logits_processors({4: 3.0}, 1.3)}
    wanted = reference(model, prompt, TOKENS, **greedy)
    assert run(pair, prompt, TOKENS, **greedy) == wanted
    mx.random.seed(1)
    wanted = run(plain, prompt, TOKENS, sampler=options["sampler"])
    mx.random.seed(1)
    assert run(pair, prompt, TOKENS, sampler=options["sampler"]) == wanted


@pytest.mark.slow
def test_penalties_equal_mlx_lms(small):
    model, prompt, _ = small
    values = {
        "repetition_penalty": 1.5,
        "presence_penalty": 0.6,
        "frequency_penalty": 0.3,
        "logit_bias": {2: 4.0},
    }
    processors = make_logits_processors(**values)
    wanted = reference(model, prompt, TOKENS, logits_processors=processors)
    options = {"sampling": Sampling(**values)}
    assert run(Pair.of(model), prompt, TOKENS, **options) == wanted
    pair = Pair.of(model, Script(prompt + wanted, [99, 4, 0]))
    assert run(pair, prompt, TOKENS, **options) == wanted


def test_rounds_have_true_counts(small):
    model, prompt, answer = small
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 99], block_size=6))
    rounds = list(decode(pair, prompt, max_tokens=TOKENS, block_size=6))
    assert [round.width for round in rounds[:4]] == [0, 6, 6, 6]
    assert [round.accepted for round in rounds[:4]] == [0, 2, 0, 5]
    assert [round.drafted for round in rounds[:4]] == [0, 5, 5, 5]
    assert all(len(r.tokens) == r.accepted + 1 for r in rounds[:-1])
    for round in rounds:
        best = mx.argmax(round.logits, axis=-1).tolist()
        assert best == round.tokens


def test_features_are_the_residual_stream(small):
    model, prompt, _ = small
    target = Pair.of(model).target
    ids = mx.array([prompt])
    logits, features = target.forward(ids, target.make_cache(), (2, 0))
    assert mx.array_equal(logits, model(ids))
    h, wanted = model.model.embed_tokens(ids), {}
    for i, layer in enumerate(model.layers):
        h = wanted[i] = layer(h, "causal", None)
    assert mx.array_equal(features, mx.concatenate([wanted[2], wanted[0]], axis=-1))
    assert target.forward(ids, target.make_cache())[1].shape == (1, PROMPT, 0)


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ([], {}, PromptError),
        ([1], {"max_tokens": 0}, OptionError),
        ([1], {"max_tokens": -2}, OptionError),
        ([1], {"block_size": 0}, OptionError),
        ([1], {"prefill_step_size": 0}, OptionError),
        ([1] * 50, {}, PromptError),
        ([1], {"kv": KVBits(8, 64)}, OptionError),
    ],
)
def test_bad_requests(small, prompt, options, error):
    config = {"max_position_embeddings": 50, "head_dim": 32}
    pair = Pair.of(small[0], make_drafter(), config)
    with pytest.raises(error):
        list(decode(pair, prompt, **options))


def test_the_context_ends_the_text(small):
    model, prompt, answer = small
    config = {"max_position_embeddings": PROMPT + 7}
    pair = Pair.of(model, make_drafter(), config)
    assert run(pair, prompt, -1) == answer[:7]


def test_taps_out_of_range_are_refused(small):
    from dflash_mlx.errors import PairError

    with pytest.raises(PairError, match="layers 0 to 2"):
        Pair.of(small[0], make_drafter(target_layer_ids=(0, 4)))


def test_tokens_are_in_the_vocabulary(small):
    assert max(small[2]) < VOCAB


class Oracle(Script):
    """Proposes from the target's own logits: drafts differ only if the noise does."""

    def __init__(self, text, logits, prompt):
        super().__init__(text, [99])
        self.logits, self.prompt = logits, prompt

    def propose(self, anchor, cache, width, choose):
        at = cache[0].offset + 1 - self.prompt
        rows = mx.concatenate(self.logits[at : at + width - 1])
        return choose(rows[None], range(1, len(rows) + 1))


def test_drafts_are_made_with_the_targets_noise(small):
    model, prompt, _ = small
    options = {"max_tokens": 33, "sampling": Sampling(temp=2.0, seed=6)}
    plain = list(decode(Pair.of(model), prompt, **options))
    text = [token for round in plain for token in round.tokens]
    logits = [row[None] for round in plain for row in round.logits]
    oracle = Oracle(prompt + text, logits, PROMPT)
    rounds = list(decode(Pair.of(model, oracle), prompt, block_size=8, **options))
    assert [token for round in rounds for token in round.tokens] == text
    assert all(round.accepted == round.drafted for round in rounds)
    assert len(rounds) == 5
