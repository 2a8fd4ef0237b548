"""The loop with kernels: on the emulator, exact, and after a kernel failed."""

from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest
from test_metal_dispatch import doubling, verdicts
from tiny import Script, make_drafter, make_model, reference, run, some_prompt

from dflash_mlx import PromptCache, Sampling, engine, load
from dflash_mlx.decoding import Decoding, Flight
from dflash_mlx.metal.dispatch import Dispatch
from dflash_mlx.pair import Pair

PLAN = (2, 0, 5, 1, 99, 3)
TOKENS = 40


def in_service(tmp_path, said):
    """A dispatch with a kernel that nothing calls."""
    dispatch = Dispatch(True, verdicts(tmp_path), said.append)
    dispatch._chosen["doubling", "8", 2] = doubling()
    return dispatch


def failing(monkeypatch, at, error=RuntimeError):
    """Let some reads fail, counted from 0."""
    stock, reads = Flight.read, iter(range(10**6))

    def read(flight):
        if next(reads) in at:
            raise error("[METAL] Command buffer execution failed")
        return stock(flight)

    monkeypatch.setattr(Flight, "read", read)


@pytest.mark.parametrize("at", (0, 1, 2, 5))
@pytest.mark.parametrize("drafting", (True, False))
@pytest.mark.parametrize("family", ("qwen3", "llama"))
def test_a_kernel_that_fails_in_flight_is_dropped_and_the_answer_goes_on(
    monkeypatch, tmp_path, at, drafting, family
):
    model, prompt, said = make_model(family), some_prompt(20), []
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, PLAN) if drafting else None)
    pair = replace(pair, kernels=(in_service(tmp_path, said),))
    failing(monkeypatch, {at})
    cache = PromptCache(pair)
    assert run(pair, prompt, TOKENS, prompt_cache=cache) == answer
    assert len(said) == 1 and "doubling kernel is off" in said[0]
    assert cache.tokens + cache.tail == prompt + answer and not cache.broken


def test_a_second_failure_is_nobodys_kernel(monkeypatch, tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = replace(Pair.of(model), kernels=(in_service(tmp_path, []),))
    failing(monkeypatch, {2, 4})
    with pytest.raises(RuntimeError, match="Command buffer"):
        run(pair, prompt, TOKENS)


def test_a_failure_without_kernels_is_raised(monkeypatch):
    failing(monkeypatch, {2})
    with pytest.raises(RuntimeError, match="Command buffer"):
        run(Pair.of(make_model("qwen3")), some_prompt(20), TOKENS)


def test_a_restart_keeps_sampling_and_penalties(monkeypatch, tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(20)
    sampling = Sampling(temp=0.8, seed=3, repetition_penalty=1.3, frequency_penalty=0.7)
    pair = Pair.of(model, make_drafter())
    answer = run(pair, prompt, TOKENS, sampling=sampling)
    failing(monkeypatch, {4})
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    assert run(pair, prompt, TOKENS, sampling=sampling) == answer


def test_a_restart_keeps_the_conversation_before(monkeypatch, tmp_path):
    model, prompt, more = make_model("qwen3"), some_prompt(20), some_prompt(9, 8)
    pair = Pair.of(model, make_drafter())
    said, cache = [], PromptCache(pair)
    for text in (prompt, more):
        said.append(run(pair, text, 12, prompt_cache=cache))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    cache = PromptCache(pair)
    assert run(pair, prompt, 12, prompt_cache=cache) == said[0]
    failing(monkeypatch, {0})
    assert run(pair, more, 12, prompt_cache=cache) == said[1]
    assert mx.array_equal(mx.array(cache.tokens[:20]), mx.array(prompt))


PLACES = ("prefill", "_feed", "send", "draft", "commit", "_flush")


@pytest.mark.parametrize("error", (RuntimeError, ValueError))
@pytest.mark.parametrize("at", (0, 1, 3))
@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_kernel_fails(monkeypatch, tmp_path, place, at, error):
    model, prompt, said = make_model("qwen3"), some_prompt(20), []
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, PLAN))
    pair = replace(pair, kernels=(in_service(tmp_path, said),))
    stock, calls, spelt = getattr(Decoding, place), iter(range(10**6)), []

    def breaking(state, *arguments, **options):
        if next(calls) == at:
            raise error("[metal::Device] Unable to build metal library from source")
        return stock(state, *arguments, **options)

    def scan(tokens):
        spelt.extend(tokens)

    monkeypatch.setattr(Decoding, place, breaking)
    cache = PromptCache(pair)
    options = {"prompt_cache": cache, "prefill_step_size": 8, "scan": scan}
    assert run(pair, prompt, TOKENS, **options) == answer == spelt
    assert cache.tokens + cache.tail == prompt + answer and not cache.broken
    assert len(said) == (next(calls) > at)


def test_a_restart_shows_the_drafter_its_window(monkeypatch, tmp_path):
    seen = []

    class Looking(Script):
        def extend(self, features, cache):
            seen.append(features.shape[1])
            return super().extend(features, cache)

    model, prompt = make_model("qwen3"), some_prompt(20)
    drafter = Looking(prompt + reference(model, prompt, 20), (2, 0, 5))
    drafter.window = 8
    pair = Pair.of(model, drafter)
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    failing(monkeypatch, {2})
    run(pair, prompt, 20)
    assert seen.count(7) == 2  # in the prefill, and in the restart


def test_a_first_round_never_stalls():
    answer = engine.Answer(None, set(), 9, engine.Stats("dflash"))
    assert not answer.stalls(1e6)


def test_a_round_that_stalls_drops_the_kernels(monkeypatch, tmp_path):
    pair, tokenizer = load("tiny", kernels="off")
    said, stock, rounds, clock = [], pair.drafter.propose, iter(range(100)), [0.0]

    def propose(*arguments):
        clock[0] += 30.0 if next(rounds) == 4 else 0.5
        return stock(*arguments)

    def now():
        clock[0] += 1e-3
        return clock[0]

    monkeypatch.setattr(pair.drafter, "propose", propose)
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=now))
    pair = replace(pair, kernels=(in_service(tmp_path, said),))
    messages = [{"role": "user", "content": "Count from 1 to 30."}]
    prompt = engine.apply_template(tokenizer, messages)
    responses = engine.stream_generate(pair, tokenizer, prompt, max_tokens=60)
    assert sum(1 for _ in responses) == 60
    assert len(said) == 1 and "a round took 30 s" in said[0]
