"""batch_generate: each prompt's answer is generate's."""

import pytest

from dflash_mlx import Sampling, batch_generate, generate, load
from dflash_mlx.errors import OptionError, PromptError

PROMPTS = [
    [{"role": "user", "content": f"What is {i} + {3 * i}?"}] for i in (2, 17, 40)
]


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.mark.parametrize("concurrent", [1, 2, 8])
def test_answers_are_those_of_generate(tiny, concurrent):
    chosen = [Sampling(), Sampling(temp=2.0, seed=5), Sampling(temp=1.0, seed=6)]
    expected = [
        generate(*tiny, prompt, max_tokens=40, sampling=sampling)
        for prompt, sampling in zip(PROMPTS, chosen, strict=True)
    ]
    done = []
    found = batch_generate(
        *tiny,
        PROMPTS,
        max_tokens=40,
        sampling=chosen,
        max_concurrent=concurrent,
        progress=lambda *counts: done.append(counts),
    )
    assert found.texts == expected
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert found.caches is None and found.token_ids is None and found.logprobs is None
    assert found.stats.generation_tokens == found.stats.rounds.tokens > 20
    assert found.stats.generation_tps > 0


def test_what_is_returned_on_request(tiny, capsys):
    found = batch_generate(
        *tiny,
        PROMPTS,
        None,
        [3, 4, 400],
        True,
        return_prompt_caches=True,
        return_token_ids=True,
        return_logprobs=True,
    )
    assert [len(ids) for ids in found.token_ids[:2]] == [3, 4]
    assert found.finish_reasons == ["length", "length", "stop"]
    for ids, logprobs in zip(found.token_ids, found.logprobs, strict=True):
        assert len(ids) == len(logprobs) and all(value <= 0 for value in logprobs)
    more = [{"role": "user", "content": "And 1 + 1?"}]
    again = batch_generate(*tiny, [more] * 3, found.caches, 5)
    assert len(again.texts) == 3
    assert "Finished processing 3/3" in capsys.readouterr().out


def test_mistakes_are_sentences(tiny):
    with pytest.raises(OptionError, match="max_tokens has 2 values for 3 prompts"):
        batch_generate(*tiny, PROMPTS, max_tokens=[1, 2])
    with pytest.raises(OptionError, match="max_concurrent must be 1 or more"):
        batch_generate(*tiny, PROMPTS, max_concurrent=0)
    with pytest.raises(PromptError):
        batch_generate(*tiny, [*PROMPTS, []])
    assert batch_generate(*tiny, []).texts == []
