"""What a PromptCache keeps between prompts."""

import mlx.core as mx
import pytest

from benchmarks.examine import greedy
from dflash_mlx import Pair, PromptCache
from dflash_mlx.cache.prompt_cache import common_prefix
from tests.equipment import architectures
from tests.equipment.tiny import (
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)


@pytest.fixture(scope="module")
def model():
    return make_model("llama")


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([1, 2], [1, 2, 3]) == 2
    assert common_prefix([], [1]) == 0


@pytest.mark.parametrize("keep", (0, 1, 15, 19, 20, 26))
@pytest.mark.parametrize("window", (None, 10))
def test_an_edited_prompt_keeps_its_prefix(model, keep, window):
    pair = Pair.of(model, make_drafter(window=window))
    cache = PromptCache(pair)
    text = some_prompt(20)
    text += run(pair, text, 8, prompt_cache=cache)
    edited = text[:keep] + some_prompt(6, seed=9)
    rest = cache.reuse(edited)
    assert rest == edited[len(cache.tokens) :]
    assert window or len(cache.tokens) >= min(keep, 27)
    assert run(pair, rest, 8, prompt_cache=cache) == reference(model, edited, 8)


@pytest.mark.parametrize("family", ("gemma3_text", "llama4", "falcon_h1"))
def test_reuse_after_an_interrupted_reset(family, monkeypatch):
    model = architectures.build(family)
    pair, other = Pair.of(model), [9, *range(30, 50)]
    cache = PromptCache(pair)
    run(pair, list(range(1, 41)), 5, prompt_cache=cache)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pair.target, "make_cache", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.reuse(other)
    monkeypatch.undo()
    assert cache.broken
    rest = cache.reuse(other)
    assert run(pair, rest, 6, prompt_cache=cache) == greedy(model, other, 6)


@pytest.mark.parametrize("window", (None, 16))
@pytest.mark.parametrize("length", (5, 300))
def test_rows_that_an_interruption_left_without_positions_are_dropped(window, length):
    """Ctrl-C within ContextCache.append, after the rows are added."""
    pair = Pair.of(make_model("llama"), make_drafter(window=window))
    cache = PromptCache(pair)
    run(pair, some_prompt(length), 4, prompt_cache=cache)
    entry = cache.drafter[0]
    new = mx.ones((1, *entry.fetch()[0].shape[1:2], 7, entry.fetch()[0].shape[3]))
    entry._rows.update_and_fetch(new, new)
    cache.settle()
    assert entry.fetch()[0].shape[2] == entry.positions().size
    assert not (entry.fetch()[0][..., -1:, :] == 1).all()


def test_the_same_prompt_again_passes_one_row(model):
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    prompt = some_prompt(20)
    first = run(pair, prompt, 8, prompt_cache=cache)
    assert cache.reuse(prompt) == prompt[-1:]
    assert run(pair, prompt[-1:], 8, prompt_cache=cache) == first


def test_a_cache_filled_by_plain_decoding_can_draft(model):
    pair = Pair.of(model, make_drafter())
    cache = PromptCache(pair)
    prompt = some_prompt(20)
    text = prompt + run(pair, prompt, 8, prompt_cache=cache, speculate=False)
    assert cache.drafter[0].offset == len(cache.tokens)
    more = some_prompt(3, seed=2)
    wanted = reference(model, text + more, 9)
    assert run(pair, more, 9, prompt_cache=cache) == wanted
