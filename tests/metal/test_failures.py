"""Answers during which a kernel fails: all kernels are dropped, and nothing is lost."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import pytest

from benchmarks.examine import text_without_near_ties
from dflash_mlx import (
    PromptCache,
    Sampling,
    decode,
    device,
    engine,
    load,
)
from dflash_mlx import responses as responses_module
from dflash_mlx.decoding import loop, prefill
from dflash_mlx.decoding import round as round_module
from dflash_mlx.decoding.passes import Passes
from dflash_mlx.errors import OptionError
from dflash_mlx.metal.dispatch import Dispatch
from dflash_mlx.pair import Pair
from dflash_mlx.stats import Stats
from dflash_mlx.text import chat_template
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.metal.doubling import SHAPE, doubling, verdicts

PLAN = (2, 0, 5, 1, 99, 3)
TOKENS = 40


def in_service(tmp_path, notices):
    """A dispatch with a kernel in service that no layer calls."""
    dispatch = Dispatch(True, verdicts(tmp_path), notices.append)
    dispatch._chosen["doubling", SHAPE, 2] = doubling()
    return dispatch


def fail_reads(monkeypatch, at, error=RuntimeError):
    """Make the reads with these numbers fail, counted from 0."""
    stock, reads = round_module.read, iter(range(10**6))

    def read(*arrays):
        if next(reads) in at:
            raise error("[METAL] Command buffer execution failed")
        return stock(*arrays)

    monkeypatch.setattr(round_module, "read", read)


@pytest.mark.slow
@pytest.mark.parametrize("at", (0, 1, 2, 5))
@pytest.mark.parametrize("drafting", (True, False))
@pytest.mark.parametrize("family", ("qwen3", "llama"))
def test_a_kernel_that_fails_in_flight_is_dropped_and_the_answer_goes_on(
    monkeypatch, tmp_path, at, drafting, family
):
    model, prompt, notices = make_model(family), some_prompt(20), []
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, PLAN) if drafting else None)
    pair = replace(pair, kernels=(in_service(tmp_path, notices),))
    fail_reads(monkeypatch, {at})
    cache = PromptCache(pair)
    assert run(pair, prompt, TOKENS, prompt_cache=cache) == answer
    assert len(notices) == 1 and "doubling kernel is off" in notices[0]
    assert cache.tokens + cache.tail == prompt + answer and not cache.broken


def test_a_second_failure_is_raised(monkeypatch, tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = replace(Pair.of(model), kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {2, 4})
    with pytest.raises(RuntimeError, match="Command buffer"):
        run(pair, prompt, TOKENS)


def test_a_failure_without_kernels_is_raised(monkeypatch):
    fail_reads(monkeypatch, {2})
    with pytest.raises(RuntimeError, match="Command buffer"):
        run(Pair.of(make_model("qwen3")), some_prompt(20), TOKENS)


@pytest.mark.slow
def test_a_restart_keeps_sampling_and_penalties(monkeypatch, tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(20)
    sampling = Sampling(temp=0.8, seed=3, repetition_penalty=1.3, frequency_penalty=0.7)
    pair = Pair.of(model, make_drafter())
    answer = run(pair, prompt, TOKENS, sampling=sampling)
    fail_reads(monkeypatch, {4})
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    assert run(pair, prompt, TOKENS, sampling=sampling) == answer


@pytest.mark.slow
def test_a_restart_keeps_the_conversation_before(monkeypatch, tmp_path):
    model, prompt, more = make_model("qwen3"), some_prompt(20), some_prompt(9, 8)
    pair = Pair.of(model, make_drafter())
    answers, cache = [], PromptCache(pair)
    for text in (prompt, more):
        answers.append(run(pair, text, 12, prompt_cache=cache))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    cache = PromptCache(pair)
    assert run(pair, prompt, 12, prompt_cache=cache) == answers[0]
    fail_reads(monkeypatch, {0})
    assert run(pair, more, 12, prompt_cache=cache) == answers[1]
    assert mx.array_equal(mx.array(cache.tokens[:20]), mx.array(prompt))


@pytest.mark.slow
@pytest.mark.parametrize("at", (0, 1, 3))
@pytest.mark.parametrize("drafting", (True, False))
@pytest.mark.parametrize("family", ("gemma3_text", "llama4", "qwen3_next"))
def test_windows_chunks_and_states_are_computed_anew(
    monkeypatch, tmp_path, at, drafting, family
):
    model = architectures.build(family)
    prompt, answer = text_without_near_ties(model, 30)
    pair = Pair.of(model, Script(prompt + answer, PLAN) if drafting else None)
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {at})
    cache = PromptCache(pair)
    assert run(pair, prompt, 30, prompt_cache=cache) == answer
    assert cache.tokens + cache.tail == prompt + answer and not cache.broken


@pytest.mark.parametrize("drafting", (True, False))
def test_a_restart_keeps_the_rows_of_a_bounded_cache(monkeypatch, tmp_path, drafting):
    """The answer attends to its front rows, and a prompt does not."""
    model, prompt = make_model("qwen3"), some_prompt(20)
    answer = run(Pair.of(model), prompt, TOKENS, max_kv_size=24)
    pair = Pair.of(model, Script(prompt + answer, PLAN) if drafting else None)
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {6})
    assert run(pair, prompt, TOKENS, max_kv_size=24) == answer


def test_a_kernel_may_be_dropped_before_it_fails(monkeypatch, tmp_path):
    """As one that stalls is, while its work is under way."""
    model, prompt = make_model("qwen3"), some_prompt(20)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, PLAN))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {3})
    text = []
    for round in decode(pair, prompt, max_tokens=TOKENS):
        text += round.tokens
        pair.drop_kernels("a round took 30 s")
    assert text == answer


@pytest.mark.parametrize("error", (RuntimeError, ValueError))
@pytest.mark.parametrize("name", ("scan", "progress"))
def test_an_exception_of_the_caller_is_raised(tmp_path, name, error):
    calls = []

    def cancel(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise error("cancelled")

    pair = replace(Pair.of(make_model("qwen3")), kernels=(in_service(tmp_path, []),))
    with pytest.raises(error, match="cancelled"):
        run(pair, some_prompt(20), 9, prefill_step_size=8, **{name: cancel})
    assert len(calls) == 2 and pair.kernels_in_service == ["doubling"]


@pytest.mark.parametrize("at", (0, 4))
@pytest.mark.parametrize("error", (KeyboardInterrupt, RuntimeError))
def test_a_restart_that_ends_early_loses_nothing(monkeypatch, tmp_path, at, error):
    pair = Pair.of(make_model("qwen3"))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    cache, text = PromptCache(pair), some_prompt(20)
    text += run(pair, text, 12, prompt_cache=cache)
    fail_reads(monkeypatch, {at})
    stock, forward, passes = loop.restart, Passes.forward, []

    def breaking(state, *arguments):
        passes.append(arguments)
        if len(passes) == 2:
            raise error("again")
        return forward(state, *arguments)

    def restart(*arguments):
        monkeypatch.setattr(Passes, "forward", breaking)
        return stock(*arguments)

    monkeypatch.setattr(loop, "restart", restart)
    more = some_prompt(9, 8)
    rounds = decode(pair, more, prompt_cache=cache, prefill_step_size=8)
    answer = []
    with pytest.raises(error, match="again"):
        for round in rounds:
            answer += round.tokens
    text += more + answer if answer else []
    assert bool(answer) == bool(at) and 0 < len(cache.tokens) < len(text)
    assert cache.tokens + cache.tail == text and not cache.broken


def test_a_cache_that_another_answer_uses_is_left_alone(monkeypatch, tmp_path):
    pair = Pair.of(make_model("qwen3"))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    cache = PromptCache(pair)
    first = decode(pair, some_prompt(20), max_tokens=3, prompt_cache=cache)
    next(first), next(first)
    second = decode(pair, [5], prompt_cache=cache)
    next(second), next(second)
    held = list(cache.tokens)
    fail_reads(monkeypatch, {0})
    with pytest.raises(OptionError, match="taken over"):
        next(first)
    assert cache.tokens == held and next(second).tokens


PLACES = (
    (loop, "prefill"),
    (prefill, "feed"),
    *((Passes, n) for n in ("verify", "draft", "_commit_rows", "flush_features")),
)


@pytest.mark.slow
@pytest.mark.parametrize("error", (RuntimeError, ValueError))
@pytest.mark.parametrize(("place", "at"), thinned(PLACES, (0, 1, 3), "loop", 2))
def test_a_kernel_may_fail_in_any_pass(monkeypatch, tmp_path, place, at, error):
    owner, name = place
    model, prompt, notices = make_model("qwen3"), some_prompt(20), []
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, PLAN))
    pair = replace(pair, kernels=(in_service(tmp_path, notices),))
    stock, calls, scanned = getattr(owner, name), iter(range(10**6)), []

    def breaking(state, *arguments, **options):
        if next(calls) == at:
            raise error("[metal::Device] Unable to build metal library from source")
        return stock(state, *arguments, **options)

    def scan(tokens):
        scanned.extend(tokens)

    monkeypatch.setattr(owner, name, breaking)
    cache = PromptCache(pair)
    options = {"prompt_cache": cache, "prefill_step_size": 8, "scan": scan}
    assert run(pair, prompt, TOKENS, **options) == answer == scanned
    assert cache.tokens + cache.tail == prompt + answer and not cache.broken
    assert len(notices) == (next(calls) > at)


def test_a_restart_shows_the_drafter_its_window(monkeypatch, tmp_path):
    seen = []

    class RecordingScript(Script):
        def extend(self, features, cache):
            seen.append(features.shape[1])
            return super().extend(features, cache)

    model, prompt = make_model("qwen3"), some_prompt(20)
    drafter = RecordingScript(prompt + reference(model, prompt, 20), (2, 0, 5))
    drafter.window = 8
    pair = Pair.of(model, drafter)
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {2})
    run(pair, prompt, 20, block_size=drafter.block_size)
    # All of it in the prefill; the prompt's part and the answer's in the restart.
    assert seen[0] == 8 and (3, 4) in zip(seen, seen[1:], strict=False)


def test_an_answer_may_be_left_after_a_restart(monkeypatch, tmp_path):
    model, prompt = make_model("qwen3"), some_prompt(20)
    pair = Pair.of(model, Script(prompt + reference(model, prompt, TOKENS), PLAN))
    pair = replace(pair, kernels=(in_service(tmp_path, []),))
    fail_reads(monkeypatch, {2})
    cache, text = PromptCache(pair), list(prompt)
    rounds = decode(pair, prompt, max_tokens=TOKENS, prompt_cache=cache)
    for _ in range(3):
        text += next(rounds).tokens
    rounds.close()
    assert cache.tokens + cache.tail == text and not cache.broken
    assert {entry.offset for entry in cache.target} == {len(cache.tokens)}


def test_the_drafters_kernels_are_dropped_too(tmp_path):
    target = Dispatch(True, verdicts(tmp_path))
    drafter = target.for_drafter()
    target._chosen["doubling", SHAPE, 2] = doubling()
    drafter._chosen["doubling", SHAPE, 2] = doubling("another")
    pair = replace(Pair.of(make_model("qwen3")), kernels=(target, drafter))
    assert pair.kernels_in_service == ["another", "doubling"]
    assert pair.drop_kernels("hung") and not pair.kernels_in_service


def test_a_first_round_never_stalls():
    answer = responses_module.Answer(None, set(), Stats("dflash"))
    assert not answer.is_stall(1e6)


@pytest.mark.parametrize("usual, most", ((0.5, 20.0), (3.0, 60.0)))
def test_a_stall_is_long_and_unusual(usual, most):
    answer = responses_module.Answer(None, set(), Stats("dflash"))
    answer.stats.rounds, answer.stats.seconds_by_width = 2, {4: [2, 2 * usual]}
    assert not answer.is_stall(most - 1) and answer.is_stall(most + 1)


def test_a_program_that_was_stopped_meanwhile_did_not_stall(monkeypatch):
    """Ctrl-Z and fg: the shell continues a program with this signal."""
    before = signal.getsignal(signal.SIGCONT)
    try:
        device.SUSPENSIONS.watch()
        answer = responses_module.Answer(None, set(), Stats("dflash"))
        answer.stats.rounds, answer.stats.seconds_by_width = 2, {4: [2, 1.0]}
        answer.start_clock()
        os.kill(os.getpid(), signal.SIGCONT)
        assert not answer.is_stall(3600.0)
        answer.start_clock()
        assert answer.is_stall(3600.0)
    finally:
        signal.signal(signal.SIGCONT, before)


def test_only_the_main_thread_counts_suspensions():
    before = signal.getsignal(signal.SIGCONT)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(device.SUSPENSIONS.watch).result()
    assert signal.getsignal(signal.SIGCONT) == before


def test_a_round_that_stalls_drops_the_kernels(monkeypatch, tmp_path):
    pair, tokenizer = load("tiny", kernels="off")
    notices, stock, rounds, clock = [], pair.drafter.propose, iter(range(100)), [0.0]

    def propose(*arguments):
        clock[0] += 30.0 if next(rounds) == 4 else 0.5
        return stock(*arguments)

    def now():
        clock[0] += 1e-3
        return clock[0]

    monkeypatch.setattr(pair.drafter, "propose", propose)
    monkeypatch.setattr(responses_module, "time", SimpleNamespace(perf_counter=now))
    pair = replace(pair, kernels=(in_service(tmp_path, notices),))
    messages = [{"role": "user", "content": "Count from 1 to 30."}]
    prompt = chat_template.apply_template(tokenizer, messages)
    responses = engine.stream_generate(
        pair, tokenizer, prompt, max_tokens=60, block_size=8
    )
    kernels = [response.stats.kernels for response in responses]
    assert len(kernels) == 60 and (kernels[0], kernels[-1]) == (["doubling"], [])
    assert len(notices) == 1 and "a round took 30 s" in notices[0]
