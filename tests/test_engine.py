"""Text generation with the embedded pair, compared with mlx-lm's API."""

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from transformers import BatchEncoding

from dflash_mlx import (
    DFlashError,
    Grammar,
    Pair,
    PromptCache,
    Sampling,
    decode,
    generate,
    load,
    stream_generate,
)
from dflash_mlx.errors import OptionError, PromptError

QUESTION = "Write the 7 times table up to 5."


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def ids(tiny):
    messages = [{"role": "user", "content": QUESTION}]
    return tiny[1].apply_chat_template(messages, add_generation_prompt=True)


def answer(pair, tokenizer, prompt, **options):
    responses = list(stream_generate(pair, tokenizer, prompt, **options))
    return "".join(r.text for r in responses), responses


@pytest.mark.parametrize("width", (None, 1, 2, 5, 16))
def test_equals_mlx_lm_response_by_response(tiny, ids, width):
    pair, tokenizer = tiny
    wanted = list(mlx_lm.stream_generate(pair.model, tokenizer, ids, max_tokens=120))
    text, got = answer(pair, tokenizer, ids, max_tokens=120, block_size=width)
    assert [r.token for r in got] == [r.token for r in wanted]
    assert text == "".join(r.text for r in wanted)
    assert [r.generation_tokens for r in got] == list(range(1, len(wanted) + 1))
    assert got[-1].finish_reason == wanted[-1].finish_reason == "stop"
    assert {r.finish_reason for r in got[:-1]} == {None}
    for ours, theirs in zip(got, wanted, strict=True):
        assert mx.array_equal(ours.logprobs, theirs.logprobs)
        assert ours.prompt_tokens == theirs.prompt_tokens
    names = {f for f in vars(wanted[0]) if f != "logprobs"}
    assert names <= set(vars(got[0]))


def test_statistics_add_up(tiny, ids):
    _, got = answer(*tiny, ids, block_size=8)
    stats = got[-1].stats
    assert stats.engine == "dflash" and stats.tokens == len(got)
    assert stats.accepted == sum(r.from_draft for r in got)
    assert stats.tokens == 1 + stats.accepted + stats.rounds - (
        got[-1].from_draft  # a round cut inside its drafts has no bonus token
    )
    assert stats.tokens_per_round == (len(got) - 1) / stats.rounds
    assert sum(n for n, _ in stats.seconds_by_width.values()) == stats.rounds
    assert all(
        b <= a for a, b in zip(stats.acceptance, stats.acceptance[1:], strict=False)
    )
    assert not got[0].from_draft and stats.time_to_first_token > 0


def test_a_plain_answer_has_a_reason(tiny, ids):
    pair, tokenizer = tiny
    stats = [
        answer(pair, tokenizer, ids, max_tokens=3, speculate=False)[1][0].stats,
        answer(pair, tokenizer, ids, max_tokens=3, block_size=1)[1][0].stats,
        answer(Pair.of(pair.model), tokenizer, ids, max_tokens=3)[1][0].stats,
    ]
    assert [s.engine for s in stats] == ["plain"] * 3
    assert [s.reason for s in stats] == [
        "drafting is off",
        "block size 1",
        "no drafter",
    ]
    assert [s.speedup for s in stats] == [None] * 3  # nothing to compare


@pytest.mark.slow
@pytest.mark.parametrize("most", range(1, 14))
def test_max_tokens(tiny, ids, most):
    text, got = answer(*tiny, ids, max_tokens=most)
    assert len(got) == most and got[-1].finish_reason == "length"
    whole, _ = answer(*tiny, ids)
    assert whole.startswith(text)


@pytest.fixture(scope="module")
def whole(tiny, ids):
    """The answer without a stop string."""
    return answer(*tiny, ids)[0]


@pytest.mark.slow
@pytest.mark.parametrize("at", range(3, 22))
@pytest.mark.parametrize("speculate", (True, False))
def test_stop_strings_at_every_offset(tiny, ids, whole, at, speculate):
    stop = whole[at : at + 4]
    cache = PromptCache(tiny[0])
    text, got = answer(*tiny, ids, stop=[stop], speculate=speculate, prompt_cache=cache)
    assert text == whole[: whole.index(stop)]
    assert got[-1].finish_reason == "stop"
    kept = len(ids) + len(got) - 1
    assert cache.target[0].offset == len(cache.tokens) == kept


@pytest.mark.slow
def test_sampled_text_repeats_by_seed(tiny, ids):
    options = {"max_tokens": 60, "sampling": Sampling(temp=5.0, seed=4)}
    drafted, _ = answer(*tiny, ids, **options)
    plain, _ = answer(*tiny, ids, speculate=False, **options)
    other, _ = answer(*tiny, ids, max_tokens=60, sampling=Sampling(temp=5.0, seed=5))
    assert drafted == plain != other


def test_kinds_of_prompt(tiny, ids):
    pair, tokenizer = tiny
    text = tokenizer.decode(ids)
    wanted = generate(pair, tokenizer, ids, max_tokens=9)
    assert generate(pair, tokenizer, mx.array(ids), max_tokens=9) == wanted
    assert generate(pair, tokenizer, text, max_tokens=9) == wanted
    assert generate(pair, tokenizer._tokenizer, text, max_tokens=9) == wanted
    with pytest.raises(PromptError):
        generate(pair, tokenizer, "")
    with pytest.raises(PromptError, match="context ends at 8192"):
        generate(pair, tokenizer, [5] * 9000)
    with pytest.raises(TypeError):
        generate(pair, tokenizer, text, max_token=9)


def test_verbose_prints_mlx_lms_lines(tiny, ids, capsys):
    text = generate(*tiny, ids, verbose=True, max_tokens=20)
    out = capsys.readouterr().out
    assert out.startswith("==========\n" + text)
    for line in ("Prompt: ", "Generation: 20 tokens, ", "Peak memory: ", "DFlash: "):
        assert f"\n{line}" in out


def test_a_closed_stream_leaves_the_pair_usable(tiny, ids):
    stream = stream_generate(*tiny, ids)
    for _ in range(5):
        next(stream)
    stream.close()
    assert answer(*tiny, ids)[0].startswith("7 x 1 = 7")


def test_errors_have_one_base_class(tiny):
    with pytest.raises(DFlashError):
        next(stream_generate(*tiny, "Hello", max_tokens=0))


def test_progress_is_reported(tiny):
    seen = []
    generate(
        *tiny,
        [5] * 50,
        max_tokens=2,
        prefill_step_size=16,
        prompt_progress_callback=lambda done, all: seen.append((done, all)),
    )
    assert seen == [(0, 50), (16, 50), (32, 50), (48, 50), (49, 50), (50, 50)]


@pytest.mark.slow
def test_drafts_behind_the_end_do_not_count(tiny, ids):
    from tests.equipment.tiny import Script

    pair, tokenizer = tiny
    tokens = [r.token for r in answer(pair, tokenizer, ids, speculate=False)[1]]
    script = Script(ids + tokens, [99], taps=(), vocab=512)
    _, got = answer(Pair.of(pair.model, script), tokenizer, ids)
    stats = got[-1].stats
    assert stats.drafted == stats.accepted
    assert set(stats.acceptance) == {1.0}


@pytest.mark.slow
def test_a_prompt_cache_continues_without_a_prompt(tiny, ids):
    _, whole = answer(*tiny, ids)
    cache = PromptCache(tiny[0])
    _, first = answer(*tiny, ids, max_tokens=9, prompt_cache=cache)
    _, rest = answer(*tiny, [], prompt_cache=cache)
    assert [r.token for r in first + rest] == [r.token for r in whole]


@pytest.mark.parametrize("seen", (1, 2, 4, 7, 9))
def test_a_stream_closed_inside_a_round_keeps_what_was_yielded(tiny, ids, seen):
    whole = [r.token for r in answer(*tiny, ids, block_size=8)[1]]
    cache = PromptCache(tiny[0])
    stream = stream_generate(*tiny, ids, prompt_cache=cache, block_size=8)
    assert [next(stream).token for _ in range(seen)] == whole[:seen]
    stream.close()
    assert cache.text == ids + whole[:seen] and len(cache.tail) == 1
    assert {entry.offset for entry in cache.target} == {cache.rows}
    _, rest = answer(*tiny, [], prompt_cache=cache, block_size=8)
    assert whole[:seen] + [r.token for r in rest] == whole


def test_another_use_of_its_cache_ends_a_stream_inside_a_round(tiny, ids):
    cache = PromptCache(tiny[0])
    stream = stream_generate(*tiny, ids, prompt_cache=cache, block_size=8)
    seen = [next(stream).token for _ in range(3)]
    cache.release()
    assert cache.text == ids + seen
    with pytest.raises(OptionError, match="taken over"):
        next(stream)


def test_kinds_of_token_ids_and_stops(tiny, ids):
    wanted = generate(*tiny, ids, max_tokens=9)
    encoding = BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})
    for prompt in (np.array(ids), np.array([ids]), mx.array(ids), tuple(ids), encoding):
        assert generate(*tiny, prompt, max_tokens=9, stop=None) == wanted
    for prompt in (None, 3, [1.5], [ids, ids], {"ids": ids}):
        with pytest.raises(PromptError, match="must be text or token ids"):
            generate(*tiny, prompt)


@pytest.mark.parametrize("token", (512, 99999, -1))
def test_a_prompt_with_a_token_that_the_model_lacks(tiny, token):
    with pytest.raises(PromptError, match=f"the token {token}, but .* 0 to 511"):
        generate(*tiny, [5, token, 6])


def test_the_first_space_of_an_answer_is_kept(tiny):
    pair, tokenizer = tiny
    prompt = tokenizer.encode("7 x 3", add_special_tokens=False)
    (token,) = tokenizer.encode(" |", add_special_tokens=False)
    sampling = Sampling(logit_bias={token: 1000.0})
    text, _ = answer(pair, tokenizer, prompt, max_tokens=3, sampling=sampling)
    assert text == " | | |"
    cache = PromptCache(pair)
    options = {"sampling": sampling, "prompt_cache": cache}
    answer(pair, tokenizer, prompt, max_tokens=3, **options)
    assert answer(pair, tokenizer, [], max_tokens=2, **options)[0] == " | |"


def test_that_a_stateful_processor_needs_plain_decoding_is_documented():
    assert "counts its calls" in stream_generate.__doc__


def test_decode_takes_an_array_of_ids(tiny, ids):
    pair, _ = tiny
    wanted = [round.tokens for round in decode(pair, ids, max_tokens=5, block_size=4)]
    for prompt in (np.array(ids), mx.array(ids)):
        cache = PromptCache(pair)
        rounds = decode(pair, prompt, max_tokens=5, block_size=4, prompt_cache=cache)
        assert [round.tokens for round in rounds] == wanted
        assert all(type(token) is int for token in cache.text)


@pytest.mark.parametrize("width", (None, 1, 8))
def test_a_complete_answer_ends_with_stop_and_a_cut_one_with_length(tiny, ids, width):
    grammar = Grammar.of_regex(tiny[1], "7 x [0-9] = [0-9]{2}")
    options = {"grammar": grammar, "block_size": width}
    text, got = answer(*tiny, ids, **options)
    assert text.startswith("7 x ") and len(text) == 10
    assert got[-1].finish_reason == "stop" and got[-1].token == 2
    cut, got = answer(*tiny, ids, max_tokens=4, **options)
    assert text.startswith(cut) and got[-1].finish_reason == "length"
    stopped, got = answer(*tiny, ids, stop=" =", **options)
    assert stopped == text[:5] and got[-1].finish_reason == "stop"
    assert generate(*tiny, ids, **options) == text


def test_a_grammar_that_says_what_the_model_would_changes_nothing(tiny, ids, whole):
    grammar = Grammar.of_regex(tiny[1], r"(7 x [0-9]+ = [0-9]+\n?)+")
    text, got = answer(*tiny, ids, grammar=grammar, block_size=8)
    _, free = answer(*tiny, ids, block_size=8)
    assert text == whole and got[-1].stats.rounds == free[-1].stats.rounds
    assert [r.token for r in got] == [r.token for r in free]


@pytest.mark.parametrize("seen", (1, 3, 6))
def test_a_constrained_stream_closed_inside_a_round(tiny, ids, seen):
    grammar = Grammar.of_regex(tiny[1], r"(7 x [0-9]+ = [0-9]+\n?)+")
    options = {"block_size": 8, "grammar": grammar}
    whole = [r.token for r in answer(*tiny, ids, **options)[1]]
    cache = PromptCache(tiny[0])
    stream = stream_generate(*tiny, ids, prompt_cache=cache, **options)
    assert [next(stream).token for _ in range(seen)] == whole[:seen]
    stream.close()
    assert cache.text == ids + whole[:seen]
    _, rest = answer(*tiny, [], prompt_cache=cache, block_size=8)
    assert whole[:seen] + [r.token for r in rest] == whole
