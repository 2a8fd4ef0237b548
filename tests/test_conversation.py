"""A conversation in Python: messages as prompts, and one cache for all turns."""

import pytest

from dflash_mlx import PromptCache, Sampling, generate, load, stream_generate
from dflash_mlx.errors import OptionError, PromptError
from dflash_mlx.text.chat_template import apply_template


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


def answer(tiny, prompt, cache=None, **options):
    """The text, and the number of prompt tokens that came from the cache."""
    text = ""
    for response in stream_generate(*tiny, prompt, prompt_cache=cache, **options):
        text += response.text
    return text, response.stats.cached_tokens


QUESTIONS = ("What is 48 + 76?", "What is 12 + 34?", "Count from 1 to 5.")


def talk(tiny, cache):
    """The answers to QUESTIONS, each with the whole conversation as its prompt."""
    messages, found = [], []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        text, cached = answer(tiny, messages, cache, max_tokens=60)
        messages.append({"role": "assistant", "content": text})
        found.append((text, cached))
    return found


@pytest.mark.slow
def test_whole_conversations_reuse_what_the_cache_holds(tiny):
    cache = PromptCache(tiny[0])
    with_cache, without = talk(tiny, cache), talk(tiny, None)
    assert [text for text, _ in with_cache] == [text for text, _ in without]
    assert with_cache[0][1] == 0 and 20 < with_cache[1][1] < with_cache[2][1]
    tokens = cache.tokens + cache.tail
    assert tiny[1].decode(tokens).count(QUESTIONS[0]) == 1


def test_what_follows_the_text_is_a_prompt_too(tiny):
    pair, tokenizer = tiny
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    cache = PromptCache(pair)
    text, _ = answer(tiny, chat, cache)
    chat += [
        {"role": "assistant", "content": text},
        {"role": "user", "content": QUESTIONS[1]},
    ]
    whole = apply_template(tokenizer, chat)
    rest = whole[len(cache.text) :]
    assert whole == cache.text + rest
    held = len(cache.text)
    assert answer(tiny, rest, cache) == (answer(tiny, whole)[0], held)


def test_the_beginning_of_a_text_decides(tiny):
    cache = PromptCache(tiny[0])
    cache.text = list(range(100, 150))
    assert cache.new_tokens([7, 8]) == [7, 8]
    assert cache.new_tokens(cache.text[:15] + [7]) == cache.text[:15] + [7]
    cache.text = [5, 6, 7]
    assert cache.new_tokens([5, 6, 7, 8]) == [5, 6, 7, 8]


def test_the_same_conversation_again_is_answered_again(tiny):
    cache = PromptCache(tiny[0])
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    first, _ = answer(tiny, chat, cache)
    again, cached = answer(tiny, chat, cache)
    assert again == first and cached == len(apply_template(tiny[1], chat)) - 1


def test_generate_takes_messages(tiny):
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    ids = apply_template(tiny[1], chat)
    assert generate(*tiny, chat) == generate(*tiny, ids) != ""
    with pytest.raises(PromptError, match="a list of messages"):
        generate(*tiny, [{"role": "user"}, 3])


def test_mistakes_in_sampling_get_a_sentence(tiny):
    with pytest.raises(OptionError, match=r"sampling must be a Sampling, but is 0\.7"):
        generate(*tiny, "a", sampling=0.7)
    with pytest.raises(OptionError, match=r"sampling=Sampling\(temp=0\.5\)"):
        generate(*tiny, "a", temp=0.5)
    assert generate(*tiny, "a", sampling=Sampling(temp=0.5, seed=1), max_tokens=3)


def test_what_reuse_returned_follows_the_text_however_it_begins(tiny):
    """A text that repeats itself: what is left of it begins as the text does."""
    ids, cache = [7, 9] * 40, PromptCache(tiny[0])
    answer(tiny, ids[:30], cache, max_tokens=1)
    rest = cache.reuse(ids)
    assert rest[:16] == cache.text[:16] and len(rest) < len(ids)
    text, cached = answer(tiny, rest, cache, max_tokens=8)
    assert (text, cached) == (answer(tiny, ids, max_tokens=8)[0], len(ids) - len(rest))
    assert cache.text[: len(ids)] == ids
