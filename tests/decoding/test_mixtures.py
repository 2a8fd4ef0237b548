"""Rounds of every kind in one answer give the same text as plain decoding."""

from __future__ import annotations

import pytest

from dflash_mlx import Pair, PromptCache, Sampling, decode
from dflash_mlx.speculation.costs import DRAFTER, PLAIN
from dflash_mlx.types import KVBits
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.random_controller import SEEDS, repeating
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.models.targets.test_targets import SAME_BITS

TOKENS = 70


@pytest.mark.slow
@pytest.mark.parametrize("family", ("qwen3", "llama", "qwen3_moe"))
@pytest.mark.parametrize("dtype", ("float32", "4bit"))
def test_any_mixture_of_rounds_gives_the_same_text(controllers, family, dtype):
    model, prompt = make_model(family, dtype), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    cache, tokens = PromptCache(pair), []
    for round in decode(pair, prompt, max_tokens=TOKENS, prompt_cache=cache):
        tokens += round.tokens
    assert tokens == answer
    assert cache.tokens + cache.tail == prompt + answer
    plans = [record[0] for record in controllers.made[0].rounds]
    sources, widths = {plan.source for plan in plans}, {plan.width for plan in plans}
    assert {PLAIN, DRAFTER} <= sources and len(widths) > 4


RECURRENT = sorted({*SAME_BITS} - {"qwen3", "qwen3_moe"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("controllers", "family"),
    thinned(SEEDS, RECURRENT, "loop", 3),
    indirect=["controllers"],
)
def test_any_mixture_in_targets_with_recurrent_layers(controllers, family):
    """Recurrent states, short convolutions, experts: after rounds of every kind."""
    model = architectures.build(family)
    prompt = repeating(29)
    answer = run(Pair.of(model), prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    cache = PromptCache(pair)
    assert run(pair, prompt, TOKENS, prompt_cache=cache) == answer
    more = some_prompt(4, 8)
    wanted = run(Pair.of(model), cache.tokens + cache.tail + more, 12)
    pair.drafter.text = cache.tokens + cache.tail + more + wanted
    assert run(pair, more, 12, prompt_cache=cache) == wanted


OPTIONS = {
    "sampled": {"sampling": Sampling(temp=1.2, top_p=0.95, seed=3)},
    "penalties": {"sampling": Sampling(repetition_penalty=1.3, logit_bias={3: 2.0})},
    "quantized cache": {"kv": KVBits(8, 32, 40)},
    "bounded cache": {"max_kv_size": 48},
    "small steps": {"prefill_step_size": 7},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("controllers", "name"),
    thinned(SEEDS, OPTIONS, "loop", 3),
    indirect=["controllers"],
)
def test_any_mixture_under_any_option(controllers, name):
    model, prompt, options = make_model("qwen3"), repeating(29), OPTIONS[name]
    answer = run(Pair.of(model), prompt, TOKENS, **options)
    for drafter in (make_drafter(), Script(prompt + answer, [3, 0, 99])):
        assert run(Pair.of(model, drafter), prompt, TOKENS, **options) == answer
