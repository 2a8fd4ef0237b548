"""Rollback of every kind of cache; bounded and quantized caches in the loop."""

import random
from functools import cache

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from benchmarks import examine
from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.cache import rollback
from dflash_mlx.cache.kinds import BoundedKVCache
from dflash_mlx.errors import OptionError, UnsupportedError
from dflash_mlx.types import KVBits
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.special_configs import SLIDING
from tests.equipment.tiny import (
    Script,
    make_model,
    reference,
    run,
    some_prompt,
)

WINDOW = 12
KINDS = {
    "growing": KVCache,
    "concatenate": ConcatenateKVCache,
    "chunked": lambda: ChunkedKVCache(WINDOW),
    "rotating": lambda: RotatingKVCache(WINDOW),
    "rotating, front kept": lambda: RotatingKVCache(WINDOW, keep=3),
    "bounded": lambda: BoundedKVCache(WINDOW, keep=4),
    "list": lambda: CacheList(KVCache(), CacheList(RotatingKVCache(WINDOW))),
}


def feed(entry, rows):
    """Append rows whose keys are the given numbers, to every cache of a list."""
    if type(entry) is CacheList:
        return [feed(inner, rows) for inner in entry.caches][-1]
    if type(entry) is ChunkedKVCache:
        entry.maybe_trim_front()
    values = mx.array(rows, mx.float32)[None, None, :, None]
    keys, _ = entry.update_and_fetch(values, -values)
    return keys[0, 0, :, 0].tolist()


def seen(entry, text):
    """The rows that the last row of a text sees, itself included."""
    if type(entry) is CacheList:
        entry = entry.caches[-1]
        return seen(entry, text)
    if isinstance(entry, RotatingKVCache):
        if len(text) <= entry.max_size:
            return text
        return text[: entry.keep] + text[entry.keep - entry.max_size :]
    if type(entry) is ChunkedKVCache:
        start = (len(text) - 1) // WINDOW * WINDOW
        return text[start:]
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_blocks_and_single_rows(kind, seed):
    """Blocks that lose their last rows, with single rows between them, far past the
    window: every single row sees exactly what it would see without blocks."""
    entry, dice = KINDS[kind](), random.Random(seed)
    text = list(range(dice.randint(0, 30)))
    if text:
        feed(entry, text)
    for _ in range(40):
        if dice.random() < 0.5:
            text.append(dice.randint(0, 999))
            got, wanted = feed(entry, text[-1:]), seen(entry, text)
            if type(entry) is ChunkedKVCache:  # a mask hides its other rows
                got = got[-len(wanted) :]
            assert sorted(got) == sorted(wanted)
        else:
            rows = [dice.randint(0, 999) for _ in range(dice.randint(2, 9))]
            keep = dice.randint(1, len(rows))
            feed(entry, rows)
            rollback.drop_rows([entry], len(rows) - keep)
            text += rows[:keep]


@pytest.mark.parametrize("front", (0, 3))
def test_a_full_window_is_cut_in_temporal_order(front):
    entry = RotatingKVCache(WINDOW, keep=front)
    text = [float(i) for i in range(1, 31)]
    for row in text:
        feed(entry, [row])
    feed(entry, [101.0, 102.0, 103.0, 104.0])
    rollback.drop_rows([entry], 3)
    text.append(101.0)
    assert entry.offset == len(text)
    held = entry.keys[0, 0, :, 0].tolist()
    assert held[front:] == text[front - len(held) :] and held[:front] == text[:front]
    # A cut of more than the block would need rows that were overwritten.
    assert not rollback.can_cut_to([entry], len(text) - 5)
    with pytest.raises(RuntimeError):
        rollback.cut_to([entry], len(text) - 5)


def test_a_window_can_be_cut_until_it_is_a_ring():
    entry = RotatingKVCache(WINDOW)
    for row in range(10):
        feed(entry, [float(row)])
    assert rollback.can_cut_to([entry], 4)
    rollback.cut_to([entry], 9)
    for row in range(9, 30):
        feed(entry, [float(row)])
    assert not rollback.can_cut_to([entry], 29)
    assert rollback.can_cut_to([entry], 30)


def test_a_chunk_can_be_cut_back_to_its_start_and_no_further():
    entry = ChunkedKVCache(4)
    for row in range(11):
        feed(entry, [float(row)])
    assert rollback.can_cut_to([entry], 9)
    assert not rollback.can_cut_to([entry], 3)


def test_quantized_rows_are_cut():
    entry = QuantizedKVCache(32, 8)
    rows = mx.random.normal((1, 2, 9, 32))
    entry.update_and_fetch(rows, rows)
    rollback.drop_rows([entry], 4)
    assert entry.offset == 5
    (data, scales, biases), _ = entry.keys_and_values()
    back = mx.dequantize(data, scales, biases, 32, 8)
    assert back.shape[2] == 5 and mx.allclose(back, rows[:, :, :5], atol=0.02)


def test_unknown_kinds_are_refused():
    class NewKVCache(KVCache):
        pass

    with pytest.raises(UnsupportedError, match="NewKVCache"):
        rollback.check([KVCache(), CacheList(NewKVCache())])


@pytest.fixture(scope="module")
def small():
    model, prompt = make_model("qwen3"), some_prompt(20)
    return model, prompt


def test_interrupted_layers_are_cut_to_the_same_length():
    cache = [KVCache(), RotatingKVCache(64), KVCache()]
    for entry, rows in zip(cache, (9, 9, 5), strict=True):
        feed(entry, [float(i) for i in range(rows)])
    rollback.cut_to(cache, 5)
    assert {entry.offset for entry in cache} == {5}


@cache
def small_reference(max_kv_size):
    """mlx-lm's answer to the prompt of `small`."""
    model, prompt = make_model("qwen3"), some_prompt(20)
    return reference(model, prompt, 120, max_kv_size=max_kv_size)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "plan"),
    thinned((8, 24, 40, 1000), ((0,), (2, 0, 5, 1, 99, 3), (99,)), "loop", 2),
)
def test_a_bounded_cache_gives_mlx_lms_tokens(small, size, plan):
    model, prompt = small
    wanted = small_reference(size)
    assert (wanted == small_reference(None)) == (size == 1000)
    assert run(Pair.of(model), prompt, 120, max_kv_size=size) == wanted
    pair = Pair.of(model, Script(prompt + wanted, plan))
    options = {"max_tokens": 120, "max_kv_size": size, "block_size": 8}
    rounds = list(decode(pair, prompt, **options))
    assert [token for round in rounds for token in round.tokens] == wanted
    # Correct drafts are accepted, so the width was never reduced.
    assert max(round.accepted for round in rounds) == min(max(plan), 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ("llama", "gemma3_text", "qwen3_next", "falcon_h1", "deepseek_v3", "gpt_oss"),
)
def test_max_kv_size_bounds_layers_that_see_the_whole_text(family):
    model = architectures.build(family)
    prompt = examine.some_prompt(30)
    options = {"max_tokens": 100, "max_kv_size": 40}
    pair = Pair.of(model)
    cache = PromptCache(pair, 40)
    plain = [
        t
        for r in decode(pair, prompt, max_tokens=100, prompt_cache=cache)
        for t in r.tokens
    ]
    rows = [e.keys.shape[2] for e in cache.target if type(e) is BoundedKVCache]
    assert all(n <= 40 for n in rows)
    drafting = Pair.of(model, Script(prompt + plain, (2, 0, 5, 1, 99, 3)))
    assert [t for r in decode(drafting, prompt, **options) for t in r.tokens] == plain


def test_an_impossible_max_kv_size_is_refused(small):
    model, prompt = small
    pair = Pair.of(model)
    for size in (0, 4):
        with pytest.raises(OptionError, match="more than 4"):
            run(pair, prompt, 3, max_kv_size=size)
    with pytest.raises(OptionError, match="max_kv_size None"):
        run(pair, prompt, 3, max_kv_size=64, prompt_cache=PromptCache(pair))
    mamba = Pair.of(architectures.build("mamba"))
    with pytest.raises(OptionError, match="nothing to bound"):
        run(mamba, prompt, 3, max_kv_size=64)
    with pytest.raises(OptionError, match="exclude"):
        run(pair, prompt, 3, max_kv_size=64, kv=KVBits(8, 32, 0))


def test_a_quantized_cache_keeps_its_quantization(small):
    model, prompt = small
    pair = Pair.of(model)
    cache = PromptCache(pair)
    run(pair, prompt, 3, prompt_cache=cache, kv=KVBits(8, 32, 0))
    with pytest.raises(
        OptionError, match="already quantized to 8 bits in groups of 32"
    ):
        run(pair, prompt, 3, prompt_cache=cache, kv=KVBits(4, 32, 0))


def test_max_kv_size_and_a_window_over_whole_rows_are_refused(monkeypatch):
    windows = {"layer_types": SLIDING}
    monkeypatch.setitem(architectures.SPECIAL, "mistral3", windows)
    architectures.SPECIAL["mistral3"] |= architectures.SPECIAL["ministral3"]
    monkeypatch.setitem(architectures.WRAPPED, "mistral3", "mistral3")
    pair = Pair.of(architectures.build("mistral3"))
    if any(type(entry) is RotatingKVCache for entry in pair.target.make_cache()):
        pytest.skip("this mlx-lm keeps windows in rotating caches here too")
    with pytest.raises(OptionError, match="sliding window"):
        PromptCache(pair, 40)


@pytest.fixture
def wide_heads(monkeypatch):
    """Heads that groups of 32 divide."""
    monkeypatch.setitem(architectures.COMMON, "head_dim", 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "start"),
    thinned(
        ("qwen3_next", "qwen3_5", "gemma3_text", "falcon_h1", "glm4_moe", "nemotron_h"),
        (0, 30),
        "loop",
        2,
    ),
)
def test_kv_quantization_in_every_kind_of_model(wide_heads, family, start):
    bits = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": start}
    model = architectures.build(family)
    prompt = examine.some_prompt(24)
    kv = KVBits(8, 32, start)
    pair = Pair.of(model)
    cache = PromptCache(pair)
    plain = [
        t
        for r in decode(pair, prompt, max_tokens=80, prompt_cache=cache, kv=kv)
        for t in r.tokens
    ]
    kinds = examine.describe_caches(cache.target)
    assert "QuantizedKVCache" in kinds and " KVCache" not in kinds
    if "Rotating" not in kinds and family != "falcon_h1":  # where mlx-lm may fail
        assert plain == reference(model, prompt, 80, **bits)
    drafting = Pair.of(model, Script(prompt + plain, (2, 0, 5, 1, 99, 3)))
    drafted = [
        t for r in decode(drafting, prompt, max_tokens=80, kv=kv) for t in r.tokens
    ]
    assert drafted == plain


@pytest.mark.parametrize(
    ("family", "kv", "word"),
    [
        ("deepseek_v3", KVBits(8, 32, 0), "cannot use a KV cache of 8 bits"),
        ("gpt_oss", KVBits(8, 32, 0), "sinks"),
        ("mamba", KVBits(8, 32, 0), "nothing to quantize"),
        ("qwen3", KVBits(8, 64, 0), "groups of 64"),
    ],
)
def test_impossible_kv_quantization_is_refused_at_once(wide_heads, family, kv, word):
    pair = Pair.of(architectures.build(family))
    with pytest.raises(OptionError, match=word):
        next(decode(pair, [1, 2, 3], kv=kv))
