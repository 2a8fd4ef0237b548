"""Caches after interruptions, and caches that cannot be cut back."""

from importlib import import_module

import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.errors import OptionError, PromptError
from dflash_mlx.types import KVBits
from tests.equipment.tiny import (
    SHAPE,
    VOCAB,
    Script,
    make_drafter,
    make_model,
    randomize_weights,
    reference,
    run,
    some_prompt,
)

HYBRIDS = {
    "gemma3_text": SHAPE
    | {"sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 32},
    "qwen3_next": SHAPE
    | {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 3,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.5,
        "full_attention_interval": 2,
    },
    "mamba": {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 64,
        "state_size": 8,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
}


def hybrid(name):
    module = import_module(f"mlx_lm.models.{name}")
    args = module.ModelArgs.from_dict({"model_type": name} | HYBRIDS[name])
    mx.random.seed(1)
    return randomize_weights(module.Model(args), "float32", 2.0)


@pytest.fixture(scope="module")
def small():
    model, prompt = make_model("llama"), some_prompt(20)
    return model, prompt, reference(model, prompt, 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", HYBRIDS)
def test_a_conversation_with_caches_that_cannot_be_cut(name):
    model, prompt = hybrid(name), some_prompt(24)
    answer = reference(model, prompt, 40)
    pair = Pair.of(model)
    assert run(pair, prompt, 40) == answer
    stop = answer[25]
    wanted = answer[: answer.index(stop) + 1]
    cache = PromptCache(pair)
    assert run(pair, prompt, 40, stop_ids={stop}, prompt_cache=cache) == wanted
    # The conversation continues from the cache, and from an edited text.
    text = prompt + wanted + some_prompt(5, seed=3)
    rest = cache.reuse(text)
    assert run(pair, rest, 9, prompt_cache=cache) == reference(model, text, 9)
    edited = text[:28] + some_prompt(4, seed=4)
    rest = cache.reuse(edited)
    assert run(pair, rest, 9, prompt_cache=cache) == reference(model, edited, 9)


def interrupt(layer):
    """Make a layer raise KeyboardInterrupt once."""
    stock = type(layer)

    class Interrupted(stock):
        def __call__(self, *args, **kwargs):
            self.__class__ = stock
            raise KeyboardInterrupt

    layer.__class__ = Interrupted


@pytest.mark.parametrize("speculate", (True, False))
def test_an_interrupt_between_two_layers(small, speculate):
    model, prompt, answer = small
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache, speculate=speculate)
    got = [token for _ in range(3) for token in next(rounds).tokens]
    interrupt(model.layers[1])
    with pytest.raises(KeyboardInterrupt):
        got += [token for round in rounds for token in round.tokens]
    assert {entry.offset for entry in cache.target} == {len(cache.tokens)}
    got += run(pair, [], 20, prompt_cache=cache)
    assert got == answer[: len(got)]


def test_an_interrupt_where_nothing_can_be_cut_is_an_error():
    model, prompt = hybrid("qwen3_next"), some_prompt(20)
    pair = Pair.of(model)
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache)
    next(rounds)
    interrupt(model.layers[2])
    with pytest.raises(KeyboardInterrupt):
        list(rounds)
    with pytest.raises(OptionError, match="interrupted"):
        run(pair, [5], 3, prompt_cache=cache)
    rest = cache.reuse(prompt)
    assert rest == prompt
    wanted = reference(model, prompt, 8)
    assert run(pair, rest, 8, prompt_cache=cache) == wanted


def test_an_interrupted_prefill_passes_nothing_twice(small):
    model, prompt, _ = small
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    text = prompt + run(pair, prompt, 6, prompt_cache=cache)
    more = some_prompt(12, seed=4)

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(decode(pair, more, prompt_cache=cache, prefill_step_size=4, progress=stop))
    text += more
    assert cache.tokens + cache.tail == text[: len(cache.tokens)]
    rest = cache.reuse(text)
    assert run(pair, rest, 9, prompt_cache=cache) == reference(model, text, 9)


def test_a_suspended_generator_and_a_new_one(small):
    model, prompt, answer = small
    pair = Pair.of(model)
    cache = PromptCache(pair)
    old = decode(pair, prompt, prompt_cache=cache)
    got = [token for _ in range(3) for token in next(old).tokens]
    new = decode(pair, [], prompt_cache=cache, max_tokens=20)
    got += next(new).tokens
    old.close()  # it no longer owns the cache
    got += [token for round in new for token in round.tokens]
    assert got == answer[: len(got)] and len(got) == 23


@pytest.mark.slow
def test_an_edit_outside_the_drafters_window_keeps_the_targets_rows(small):
    model, prompt, _ = small
    pair = Pair.of(model, make_drafter(window=4))
    cache = PromptCache(pair)
    text = prompt + run(pair, prompt, 300, prompt_cache=cache)
    edited = text[:25] + some_prompt(6, seed=9)
    rest = cache.reuse(edited)
    assert rest == edited[25:]
    assert cache.drafter[0].offset == 25
    assert run(pair, rest, 9, prompt_cache=cache) == reference(model, edited, 9)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ([0], [1, 99], [99]))
@pytest.mark.parametrize("start", (0, 23, 26, 33))
@pytest.mark.parametrize("bits", (2, 8))
def test_a_quantized_kv_cache_changes_nothing(small, plan, start, bits):
    model, prompt, _ = small
    kv = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": start}
    wanted = reference(model, prompt, 40, **kv)
    pair = Pair.of(model, Script(prompt + wanted, plan))
    assert run(pair, prompt, 40, kv=KVBits(bits, 32, start)) == wanted


def test_mlx_lms_cache_list_is_an_error(small):
    model, prompt, _ = small
    pair = Pair.of(model)
    with pytest.raises(OptionError, match=r"PromptCache\(pair\)"):
        run(pair, prompt, 3, prompt_cache=pair.target.make_cache())


def test_an_empty_prompt_is_an_error_even_with_a_full_cache():
    model, prompt = hybrid("qwen3_next"), some_prompt(20)
    pair = Pair.of(model)
    cache = PromptCache(pair)
    rounds = decode(pair, prompt, prompt_cache=cache)
    for _ in range(3):
        next(rounds)
    rounds.close()
    assert cache.tokens and not cache.tail
    with pytest.raises(PromptError, match="empty"):
        run(pair, [], 3, prompt_cache=cache)
