"""Decodings that are interrupted: at any line, by an error, by another decoding.

The cache is then correct, or marked as broken.
"""

import sys
from pathlib import Path

import mlx.core as mx
import pytest

import dflash_mlx
from benchmarks.examine import cache_difference, greedy, text_without_near_ties
from dflash_mlx import (
    Pair,
    PromptCache,
    Sampling,
    decode,
)
from dflash_mlx.decoding import round as round_module
from dflash_mlx.decoding.recovery import Recovery
from dflash_mlx.errors import OptionError
from tests.equipment import architectures
from tests.equipment.scripted import Script
from tests.equipment.tiny import make_model, reference, some_prompt

ROOT = Path(dflash_mlx.__file__).parent
FILES = {
    str(ROOT / name)
    for name in (
        "decoding/loop.py",
        "decoding/round.py",
        "decoding/passes.py",
        "decoding/recovery.py",
        "cache/rollback.py",
        "cache/prompt_cache.py",
        "models/targets/base.py",
        "models/targets/replay.py",
    )
}
LENGTH = 14
MIXED = (2, 0, 5, 1, 99)


class Interrupt:
    """A trace function that raises KeyboardInterrupt at the nth line of FILES."""

    def __init__(self, at):
        self.left = at

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(pair, prompt, at):
    """The cache of a decoding that was interrupted at a line; None if it was not."""
    cache = PromptCache(pair)
    rounds = decode(
        pair, prompt, max_tokens=LENGTH, prompt_cache=cache, prefill_step_size=10
    )
    sys.settrace(Interrupt(at))
    try:
        list(rounds)
        return None
    except KeyboardInterrupt:
        return cache
    finally:
        sys.settrace(None)


# `step`: every how many lines a decoding is interrupted.
@pytest.mark.slow
@pytest.mark.parametrize("speculate", (True, False))
@pytest.mark.parametrize(
    ("family", "step"),
    [
        ("qwen3_next", 151),
        ("gemma3_text", 101),
        ("qwen3", 101),
        pytest.param("qwen3_next", 53, marks=pytest.mark.full("loop")),
        pytest.param("gemma3_text", 37, marks=pytest.mark.full("loop")),
        pytest.param("qwen3", 23, marks=pytest.mark.full("loop")),
    ],
)
def test_an_interrupt_at_any_line(family, step, speculate):
    model = architectures.build(family)
    prompt, answer = text_without_near_ties(model, 40)
    text = prompt + answer[:LENGTH]
    pair = Pair.of(model, Script(text, MIXED) if speculate else None)
    sound, broken, at = 0, 0, step
    while (cache := interrupted(pair, prompt, at)) is not None:
        at += step
        cache.release()  # as the next decoding with this cache does
        held = cache.tokens + cache.tail
        assert held == text[: len(held)] and cache.owner is None
        if cache.broken:
            broken += 1
            assert cache.reuse(text) == text
            continue
        sound += 1
        fresh = pair.target.make_cache()
        for token in cache.tokens:
            pair.target.forward(mx.array([[token]]), fresh)
        if cache.tokens:
            assert cache_difference(cache.target, fresh) < 1e-4
        if speculate:
            assert cache.drafter[0].offset == len(cache.tokens)
    assert sound > 2
    # Caches that can be cut are broken only if the cutting itself is interrupted.
    assert family != "qwen3" or broken < sound / 4


def test_an_interrupt_at_any_line_of_a_deferral():
    """It is raised or deferred, and never becomes another exception."""
    raised = deferred = 0
    for at in range(1, 12):
        recovery = Recovery(None)
        sys.settrace(Interrupt(at))
        try:
            with recovery.defer(BaseException):
                recovery.raise_deferred()
        except KeyboardInterrupt:
            raised += 1
        finally:
            sys.settrace(None)
        deferred += recovery.deferred
    assert raised >= 3 and deferred >= 2


@pytest.fixture(scope="module", params=("qwen3_next", "gemma3_text"))
def uncuttable(request):
    model = architectures.build(request.param)
    return model, *text_without_near_ties(model, 40)


@pytest.mark.slow
def test_a_new_decoding_takes_over_from_a_suspended_one(uncuttable):
    model, prompt, answer = uncuttable
    pair = Pair.of(model)
    cache = PromptCache(pair)
    old = decode(pair, prompt, prompt_cache=cache, max_tokens=40)
    tokens = [t for _ in range(3) for t in next(old).tokens]
    new = decode(pair, answer[3:4], prompt_cache=cache, max_tokens=20)
    tokens += answer[3:4] + next(new).tokens
    with pytest.raises(OptionError, match="taken over"):
        next(old)
    tokens += [t for round in new for t in round.tokens]
    assert tokens == answer[:24]


def test_reuse_closes_a_suspended_decoding(uncuttable):
    model, prompt, answer = uncuttable
    pair = Pair.of(model)
    cache = PromptCache(pair)
    old = decode(pair, prompt, prompt_cache=cache, max_tokens=40)
    for _ in range(3):
        next(old)
    rest = cache.reuse(prompt + answer[:6])
    assert rest == answer[3:6]
    rounds = decode(pair, rest, prompt_cache=cache, max_tokens=20)
    assert [token for round in rounds for token in round.tokens] == answer[6:26]


def test_an_interrupt_at_the_first_token(uncuttable, monkeypatch):
    model, prompt, answer = uncuttable
    pair = Pair.of(model)
    cache = PromptCache(pair)

    def read(*arrays):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(round_module, "read", read)
        with pytest.raises(KeyboardInterrupt):
            next(decode(pair, prompt, prompt_cache=cache))
    # No row but the prompt's was sent.
    assert not cache.broken and cache.tokens == prompt and cache.tail == []
    assert cache.reuse(prompt) == prompt
    assert next(decode(pair, prompt, prompt_cache=cache)).tokens == answer[:1]


@pytest.mark.parametrize("failing", ("bias", "processor", "scan"))
def test_an_error_in_the_callers_code(uncuttable, failing):
    model, prompt, answer = uncuttable
    pair = Pair.of(model)
    cache = PromptCache(pair)

    def fail(*arguments):
        raise OptionError("no")

    options = {
        "bias": {"sampling": Sampling(logit_bias={500: 1.0})},
        "processor": {"logits_processors": [fail]},
        "scan": {"scan": fail},
    }[failing]
    with pytest.raises(OptionError):
        list(decode(pair, prompt, prompt_cache=cache, max_tokens=9, **options))
    rest = cache.reuse(prompt + answer[:2])
    rounds = decode(pair, rest, prompt_cache=cache, max_tokens=9)
    assert [token for round in rounds for token in round.tokens] == answer[2:11]


def test_a_cache_of_another_pair_is_refused():
    one = Pair.of(architectures.build("qwen3"))
    other = Pair.of(architectures.build("qwen3"))
    with pytest.raises(OptionError, match="another pair"):
        next(decode(other, [1, 2], prompt_cache=PromptCache(one)))
    drafting = Pair.of(one.model, Script([1, 2], MIXED))
    with pytest.raises(OptionError, match="another pair"):
        next(decode(drafting, [1, 2], prompt_cache=PromptCache(one)))


def test_tapes_are_freed_after_their_round():
    import gc

    from dflash_mlx.models.targets.replay import Tape

    model = architectures.build("qwen3_next")
    prompt = [5, 9, 11]
    answer = greedy(model, prompt, 20)
    rounds = decode(Pair.of(model, Script(prompt + answer, MIXED)), prompt)
    for _ in range(3):
        next(rounds)
    assert not [thing for thing in gc.get_objects() if type(thing) is Tape]


def test_a_round_is_yielded_before_a_failed_draft_is_raised():
    """The next block is drafted before a round is yielded."""
    model, prompt = make_model("qwen3"), some_prompt(12)
    wanted = reference(model, prompt, 30)

    class Failing(Script):
        calls = 0

        def propose(self, *args):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().propose(*args)

    pair = Pair.of(model, Failing(prompt + wanted, [99], block_size=4))
    cache, tokens = PromptCache(pair), []
    with pytest.raises(KeyboardInterrupt):
        for round in decode(
            pair, prompt, block_size=4, max_tokens=30, prompt_cache=cache
        ):
            tokens += round.tokens
    assert tokens == wanted[: len(tokens)] and len(tokens) == 9
    assert cache.tokens + cache.tail == prompt + tokens and not cache.broken
