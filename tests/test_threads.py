"""Threads: load in one, decode in a second, go on in a third, close in a fourth.

MLX evaluates what is pending only in the thread that made it (ml-explore/mlx#3727).
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, decode, generate, load
from dflash_mlx.errors import OptionError
from tests.equipment import architectures
from tests.equipment.random_weights import randomize_weights
from tests.equipment.tiny import (
    SHAPE,
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)

ROPES = {
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 16,
        "long_factor": [2.0] * 16,
    },
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
}
FAMILIES = ("llama", "gemma3_text", "qwen3_next", "gpt_oss", "lfm2", "llama4")


class Guess(Script):
    """Drafts the model's own answer to a prompt, and nonsense where that ended."""

    def __init__(self, model, prompt):
        super().__init__(prompt + reference(model, prompt, 30), (2, 0, 5, 1, 99, 3))

    def propose(self, anchor, cache, width, choose):
        at = cache[0].offset
        if self.text[at : at + 1] != anchor.tolist():
            return mx.zeros((1, width - 1), mx.uint32)
        return super().propose(anchor, cache, width, choose)


def here(function, *arguments, **options):
    """Run a function in this thread."""
    return function(*arguments, **options)


class Thread:
    """One thread that runs functions until the test ends."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)

    def __call__(self, function, *arguments, **options):
        return self.pool.submit(function, *arguments, **options).result()


@pytest.fixture
def threads():
    """Four threads."""
    four = [Thread() for _ in range(4)]
    yield four
    for thread in four:
        thread(mx.clear_streams)  # or MLX's CPU build may abort when the program ends
        thread.pool.shutdown()


def lazy_rope_model(rope):
    """A model whose tables of rotary embeddings are not evaluated yet."""
    from mlx_lm.models import llama

    mx.random.seed(0)
    config = {"model_type": "llama", "rope_scaling": ROPES[rope]} | SHAPE
    return randomize_weights(llama.Model(llama.ModelArgs.from_dict(config)), "float32")


def lazy_rope_pair(rope):
    return Pair.of(lazy_rope_model(rope), make_drafter(rope_scaling=ROPES[rope]))


def answers(pair, cache, prompt, more):
    """Two answers of one conversation in this thread."""
    return [run(pair, p, 20, prompt_cache=cache, block_size=8) for p in (prompt, more)]


@pytest.mark.slow
@pytest.mark.parametrize("rope", ROPES)
def test_tables_of_rotary_embeddings_are_evaluated_where_a_pair_is_made(rope, threads):
    prompt, more = some_prompt(20), some_prompt(9, 8)
    here = lazy_rope_pair(rope)
    wanted = answers(here, PromptCache(here), prompt, more)
    pair = threads[0](lazy_rope_pair, rope)
    cache = threads[1](PromptCache, pair)
    options = {"prompt_cache": cache, "block_size": 8}
    assert threads[1](run, pair, prompt, 20, **options) == wanted[0]
    assert threads[2](run, pair, more, 20, **options) == wanted[1]
    assert threads[3](cache.reuse, prompt) and not cache.broken


@pytest.mark.slow
@pytest.mark.parametrize("drafting", (True, False))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_goes_on_in_other_threads(family, drafting, threads):
    """Also where an answer was left in the middle, and where a cache is cut back."""
    model = architectures.build(family)
    prompt, more = some_prompt(20), some_prompt(9, 8)
    block_size = 6 if drafting else 1

    def pair_of_model():
        return Pair.of(model, Guess(model, prompt) if drafting else None)

    def left_in_the_middle(pair, cache, tokens):
        rounds = decode(pair, tokens, prompt_cache=cache, block_size=block_size)
        found = [next(rounds).tokens for _ in range(4)]
        rounds.close()
        return found

    def conversation(one, two, three):
        pair = one(pair_of_model)
        cache = one(PromptCache, pair)
        found = [one(left_in_the_middle, pair, cache, prompt)]
        found.append(two(left_in_the_middle, pair, cache, more))
        rest = three(cache.reuse, prompt + more)
        assert not cache.broken
        found.append(one(left_in_the_middle, pair, cache, rest))
        return found

    assert conversation(*threads[:3]) == conversation(*threads[:1] * 3)


def test_an_answer_that_another_thread_continues_is_refused_with_a_sentence(threads):
    pair = Pair.of(make_model("qwen3"), make_drafter())
    cache, prompt = PromptCache(pair), some_prompt(20)
    rounds = threads[0](decode, pair, prompt, prompt_cache=cache, block_size=8)
    tokens = threads[1](next, rounds).tokens
    with pytest.raises(OptionError, match="began in another thread"):
        threads[2](next, rounds)
    assert cache.owner is None
    # What it had is kept, and goes on anywhere.
    text = [*cache.tokens, *cache.tail]
    assert text == prompt + tokens and not cache.broken
    assert threads[3](run, pair, [5], 4, prompt_cache=cache)


@pytest.mark.slow
@pytest.mark.parametrize("drafting", (True, False))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rounds", (1, 3))
def test_an_answer_may_be_closed_by_another_thread(family, drafting, rounds, threads):
    """As when a server's main thread collects what a worker left."""
    model, prompt = architectures.build(family), some_prompt(20)
    pair = Pair.of(model, Guess(model, prompt) if drafting else None)
    cache = PromptCache(pair)
    answer = decode(pair, prompt, prompt_cache=cache, block_size=6 if drafting else 1)
    tokens = [t for _ in range(rounds) for t in threads[0](next, answer).tokens]
    threads[1](answer.close)
    assert cache.owner is None
    fresh = PromptCache(pair)
    wanted = threads[2](run, pair, prompt + tokens + [5], 8, prompt_cache=fresh)
    if cache.broken:  # the rows were lost, and the text is passed again
        with pytest.raises(OptionError, match="interrupted"):
            threads[2](run, pair, [5], 8, prompt_cache=cache)
    rest = threads[2](cache.reuse, prompt + tokens + [5])
    assert threads[3](run, pair, rest, 8, prompt_cache=cache) == wanted


@pytest.mark.parametrize("block_size", (6, None))
def test_only_the_drafter_forgets_rows_if_another_thread_closes(threads, block_size):
    """They are few, and drafts are checked in any case."""
    pair, prompt = Pair.of(make_model("qwen3"), make_drafter()), some_prompt(20)
    cache = PromptCache(pair)
    answer = decode(pair, prompt, prompt_cache=cache, block_size=block_size)
    tokens = [t for _ in range(3) for t in threads[0](next, answer).tokens]
    threads[1](answer.close)
    assert not cache.broken and cache.tokens + cache.tail == prompt + tokens
    for entry in cache.drafter:
        assert entry.offset == cache.rows
        assert cache.rows - 64 < entry.seen(cache.rows) <= cache.rows
    fresh = PromptCache(pair)
    wanted = run(pair, prompt + tokens + [5], 20, prompt_cache=fresh)
    assert threads[2](run, pair, [5], 20, prompt_cache=cache) == wanted


def test_two_pairs_decode_in_two_threads_at_once(threads):
    pairs = [
        Pair.of(make_model(family), make_drafter()) for family in ("qwen3", "llama")
    ]
    prompt, barrier = some_prompt(20), Barrier(2)
    wanted = [run(pair, prompt, 40, block_size=8) for pair in pairs]

    def together(pair):
        barrier.wait()
        return run(pair, prompt, 40, block_size=8)

    found = [
        thread.pool.submit(together, pair)
        for thread, pair in zip(threads, pairs, strict=False)
    ]
    assert [future.result() for future in found] == wanted


@pytest.mark.slow
def test_a_loaded_pair_answers_in_any_thread(threads):
    """Its curve is stored, so the load computes nothing with it."""
    load("tiny")
    pair, tokenizer = threads[0](load, "tiny")

    def answer(thread):
        prompt = "What is 12 + 34?"
        return thread(generate, pair, tokenizer, prompt, max_tokens=9)

    texts = [answer(thread) for thread in (*threads, here)]
    assert texts.count(texts[0]) == 5
