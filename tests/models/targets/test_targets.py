"""Every target family: verify equals mlx-lm's forward, the loop gives its tokens, and
caches after a commit equal those of decoding row by row."""

from functools import cache

import mlx.core as mx
import mlx.nn as nn
import pytest

from benchmarks import examine
from benchmarks.examine import check_loop, check_verify, text_without_near_ties
from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.decoding import round as round_module
from dflash_mlx.errors import PairError, UnsupportedError
from dflash_mlx.models.targets import make_target
from dflash_mlx.models.targets.views import with_call
from tests.equipment import architectures
from tests.equipment.scripted import Script

# Where mlx-lm's pass over a block gives the bits of its passes over one row.
SAME_BITS = (
    "qwen3",
    "qwen3_moe",
    "qwen2",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4_moe",
    "minimax",
    "lfm2",
    "lfm2_moe",
    "mistral3",
)
# Elsewhere the order of additions differs: a full sliding window is kept as a ring
# (one row) or in order (a block), latent attention and state-space layers have one
# form for one row and another for several. Relative to the largest value of an array.
CLOSE = {
    "llama": 1e-5,
    "ministral3": 1e-5,
    "gemma3_text": 1e-5,
    "gemma4_text": 5e-5,
    "gpt_oss": 1e-5,
    "muse_glimmer": 1e-5,
    "laguna": 1e-5,
    "glm4_moe_lite": 2e-5,
    "deepseek_v3": 2e-5,
    "kimi_k25": 2e-5,
    "kimi_linear": 2e-5,
    "nemotron_h": 2e-5,
    "granitemoehybrid": 5e-5,
    "falcon_h1": 5e-5,
}
ALL = (*SAME_BITS, *CLOSE)
GROUP = "targets"
MIXED = (2, 0, 5, 1, 99, 3)
RUNS = (0, 0, 0, 1, 1, 1, 2, 2, 2, 5, 5, 5, 99, 99, 99)
# MLX's CPU back end multiplies gathered experts in float32 only, unless quantized.
EXPERTS = (
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_moe",
    "glm4_moe",
    "minimax",
    "lfm2_moe",
    "gpt_oss",
    "laguna",
    "glm4_moe_lite",
    "deepseek_v3",
    "kimi_k25",
    "kimi_linear",
    "nemotron_h",
    "granitemoehybrid",
)


@cache
def text_of(family, dtype, tokens):
    """A model with a prompt and its answer, after a check of `verify`."""
    model = architectures.build(family, dtype)
    check_verify(make_target(model))
    # In bfloat16 logits often tie. Where bits agree, that changes nothing.
    margin = 0.0 if dtype.startswith("bfloat16") else examine.MARGIN
    return model, *text_without_near_ties(model, tokens, margin)


def check_family(family, dtype, tokens, plan, slack=0.0):
    """Compare a family's decoding with passes over one row."""
    model, prompt, answer = text_of(family, dtype, tokens)
    pair = Pair.of(model, Script(prompt + answer, plan))
    return check_loop(pair, prompt, answer, slack)


# One family or two of each kind of cache.
KINDS = ("qwen3", "qwen3_next", "gemma3_text", "gpt_oss", "deepseek_v3", "falcon_h1")
FULL = pytest.mark.full(GROUP)


def kinds_first(families):
    """Parameters: families of KINDS run always, the others are marked `full`."""
    return [f if f in KINDS else pytest.param(f, marks=FULL) for f in families]


@pytest.mark.slow
@FULL
@pytest.mark.parametrize("family", ALL)
def test_300_tokens_in_float32(family):
    """Rounds in which 0, 1, 2, 5 or all drafts are right, three in a row and mixed."""
    found = check_family(family, "float32", 300, (*RUNS, *MIXED))
    assert found.cache <= CLOSE.get(family, 0.0)


@pytest.mark.parametrize("family", kinds_first(ALL))
def test_100_tokens_in_float32(family):
    """The plan of the test above, once."""
    found = check_family(family, "float32", 100, (*RUNS, *MIXED))
    assert found.cache <= CLOSE.get(family, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", kinds_first(ALL))
def test_quantized_targets(family):
    found = check_family(family, "4bit", 100, MIXED)
    assert found.cache <= CLOSE.get(family, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", kinds_first(SAME_BITS))
def test_bfloat16_where_bits_agree(family):
    dtype = "bfloat16-4bit" if family in EXPERTS else "bfloat16"
    assert check_family(family, dtype, 100, MIXED) == examine.LoopCheck(0.0, 0.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", kinds_first(f for f in CLOSE if f not in EXPERTS))
def test_bfloat16_elsewhere_is_close_to_the_best_choice(family):
    # Logits reach 8 and more here, where bfloat16 steps by 1/32.
    assert check_family(family, "bfloat16", 100, MIXED, slack=0.125).cache < 0.15


@pytest.mark.parametrize("family", [f for f in CLOSE if f in EXPERTS])
def test_bfloat16_experts_elsewhere_verify_like_mlx_lm(family):
    # Here the last bit may change the choice of an expert, and then any token.
    check_verify(make_target(architectures.build(family, "bfloat16-4bit")))


@FULL
@pytest.mark.parametrize("right", (0, 1, 2, 5, 99))
@pytest.mark.parametrize("family", ALL)
def test_any_number_of_right_drafts(family, right):
    found = check_family(family, "float32", 300, (right,))
    assert found.cache <= CLOSE.get(family, 0.0)


@FULL
@pytest.mark.parametrize("family", SAME_BITS)
def test_300_tokens_in_bfloat16_and_4_bit(family):
    for dtype in ("4bit", "bfloat16-4bit"):
        assert check_family(family, dtype, 300, MIXED) == examine.LoopCheck(0.0, 0.0, 0)


@pytest.mark.parametrize(
    "family", ("qwen3_next", "falcon_h1", "gemma3_text", "deepseek_v3", "lfm2")
)
def test_features_are_the_residual_stream(family):
    model = architectures.build(family)
    target = make_target(model)
    seen = {}

    def noting(layer, index):
        def note(run, *args, **kwargs):
            seen[index] = run(*args, **kwargs)
            return seen[index]

        return with_call(layer, note)

    layers = target.parts.list_layers(model)
    view = target.parts.with_layers(model, [noting(x, i) for i, x in enumerate(layers)])
    ids = mx.array([[5, 9, 11, 2]])
    view(ids, cache=target.make_cache())
    for forward in (target.forward, target.verify):
        features = forward(ids, target.make_cache(), (2, 0))[1]
        wanted = mx.concatenate([seen[2], seen[0]], axis=-1)
        assert mx.array_equal(features, wanted)


def test_the_model_itself_does_not_change():
    model = architectures.build("qwen3_next")
    before = [type(module) for _, module in model.named_modules()]
    target = make_target(model)
    target.check((0, 1))
    assert [type(module) for _, module in model.named_modules()] == before


@pytest.mark.parametrize("family", ("gemma", "gemma2", "gemma3_text", "gemma4_text"))
def test_gemmas_embedding_equals_the_input_of_its_first_layer(family):
    model = architectures.build(family, "bfloat16")
    target = make_target(model)
    seen = []

    def note(run, *args, **kwargs):
        seen.append(args[0])
        return run(*args, **kwargs)

    layers = list(target.parts.list_layers(model))
    layers[0] = with_call(layers[0], note)
    ids = mx.array([[5, 9, 11]])
    target.parts.with_layers(model, layers)(ids, cache=target.make_cache())
    assert mx.array_equal(seen[0], target.embed(ids))


def projections(model):
    """The model with its linear layers counting the rows that they multiply."""
    rows = []

    class Counting(nn.Linear):
        def __call__(self, x):
            rows.append(x.shape[1])
            return super().__call__(x)

    for _, module in model.named_modules():
        if type(module) is nn.Linear:
            module.__class__ = Counting
    return rows


@pytest.mark.parametrize(
    "family",
    ("qwen3_next", "qwen3_5", "kimi_linear", "falcon_h1", "nemotron_h", "lfm2"),
)
def test_a_commit_computes_no_projection(family):
    model = architectures.build(family)
    target = make_target(model)
    cache = target.make_cache()
    target.forward(mx.array([[3, 1, 4]]), cache)
    rows = projections(model)
    tape = target.verify(mx.array([[1, 5, 9, 2, 6]]), cache)[2]
    once = len(rows)
    assert once and tape.steps
    state = [list(step.entry.cache) for step in tape.steps]
    target.commit(cache, tape, 5, 5)
    for step, arrays in zip(tape.steps, state, strict=True):
        assert all(a is b for a, b in zip(step.entry.cache, arrays, strict=True))
    target.commit(cache, tape, 5, 2)
    assert len(rows) == once


def test_recordings_hold_rows_and_not_states():
    model = architectures.build("qwen3_next")
    target = make_target(model)
    cache = target.make_cache()
    tape = target.verify(mx.array([[1, 5, 9, 2, 6, 5, 3, 5]]), cache)[2]
    for step in tape.steps:
        outputs = [out for calls in step.outputs.values() for _, out in calls]
        assert all(out.shape[1] == 8 for out in outputs)
        assert step.before == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "word"),
    [
        ("afm7", "layers"),
        ("deepseek_v41", "LayerCache"),
        ("baichuan_m1", "recurrent"),
        ("iquestloopcoder", "features"),
        ("plamo3", "differently"),
    ],
)
def test_unsupported_families_are_refused_and_decode_plainly(family, word):
    model = architectures.build(family)
    prompt = examine.some_prompt(20)
    with pytest.raises(UnsupportedError, match=word) as error:
        Pair.of(model, Script(prompt, (0,), taps=(0,)))
    assert "--plain" in error.value.hint
    wanted = examine.greedy(model, prompt, 30)
    rounds = decode(Pair.of(model), prompt, max_tokens=30)
    assert [token for round in rounds for token in round.tokens] == wanted


def test_a_distributed_model_is_refused():
    model = architectures.build("deepseek_v3")

    class Two:
        def rank(self):
            return 1

        def size(self):
            return 2

    model.model.pipeline(Two())
    with pytest.raises((UnsupportedError, PairError)):
        Pair.of(model, Script([1], (0,), taps=(0,)))
    model = architectures.build("qwen3")
    layer = model.model.layers[0].self_attn
    layer.q_proj = nn.AllToShardedLinear(64, 64)
    with pytest.raises(UnsupportedError, match="machines"):
        Pair.of(model, Script([1], (0,), taps=(0,)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ("qwen3_next", "gemma3_text", "falcon_h1"))
@pytest.mark.parametrize("after", range(4))
def test_a_closed_generator_leaves_a_usable_cache(family, after):
    model = architectures.build(family)
    prompt, answer = text_without_near_ties(model, 60)
    pair = Pair.of(model, Script(prompt + answer, MIXED))
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache, max_tokens=60, block_size=8)
    output = [token for _ in range(after + 1) for token in next(rounds).tokens]
    rounds.close()
    assert not cache.broken and cache.tokens + cache.tail == prompt + output
    for round in decode(pair, [], prompt_cache=cache, max_tokens=60 - len(output)):
        output += round.tokens
    assert output == answer


@pytest.mark.slow
def test_an_interrupt_while_a_block_is_read_loses_no_token(monkeypatch):
    model = architectures.build("qwen3_next")
    prompt, answer = text_without_near_ties(model, 60)
    pair = Pair.of(model, Script(prompt + answer, MIXED))
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache, max_tokens=60, block_size=8)
    output = [token for _ in range(3) for token in next(rounds).tokens]
    with monkeypatch.context() as patch:
        patch.setattr(
            round_module, "read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            next(rounds)
    assert not cache.broken and cache.tokens == prompt + output and not cache.tail
    # The last token's row is kept, so the next choice comes from a prompt of one more.
    rest = answer[len(output) : len(output) + 1]
    text = prompt + output + rest
    pair.drafter.text = prompt + answer
    for round in decode(
        pair, rest, prompt_cache=cache, max_tokens=60 - len(output) - 1
    ):
        rest += round.tokens
    assert text[: len(cache.tokens)] == cache.tokens[: len(text)]
    assert output + rest == answer
