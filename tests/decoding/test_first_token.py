"""Nothing that the first token does not need is done before the caller has it."""

from threading import Thread

import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, decode
from dflash_mlx.decoding.passes import Passes
from tests.equipment.scripted import Script
from tests.equipment.tiny import make_drafter, make_model, reference, run, some_prompt

TOKENS, ROWS = 12, 20


class Noting(Script):
    """A script that notes its calls, in `events`."""

    def __init__(self, *args, events, window=None):
        super().__init__(*args)
        self.events, self.window = events, window

    def extend(self, features, cache):
        self.events.append(f"extend {features.shape[1]}")
        super().extend(features, cache)

    def propose(self, anchor, cache, width, choose):
        self.events.append("propose")
        return super().propose(anchor, cache, width, choose)


@pytest.fixture(scope="module")
def known():
    """A model, a prompt of ROWS tokens, and its answer."""
    model, prompt = make_model("qwen3"), some_prompt(ROWS)
    return model, prompt, reference(model, prompt, TOKENS)


def noted(known, monkeypatch, window=None, drafting=True, **options):
    """Events before the first round and in the second, and the decoding."""
    events, verify = [], Passes.verify

    def note_pass(passes, block):
        events.append(f"verify {len(block)}")
        return verify(passes, block)

    monkeypatch.setattr(Passes, "verify", note_pass)
    model, prompt, answer = known
    script = Noting(prompt + answer, [99], 4, events=events, window=window)
    pair = Pair.of(model, script if drafting else None)
    rounds = decode(pair, prompt, max_tokens=TOKENS, **options)
    assert next(rounds).tokens == answer[:1]
    before = list(events)
    events.clear()
    tokens = answer[:1] + next(rounds).tokens
    after = list(events)
    tokens += [token for round in rounds for token in round.tokens]
    assert tokens == answer
    return before, after


def test_the_first_token_waits_for_no_draft(known, monkeypatch):
    before, after = noted(known, monkeypatch, block_size=4)
    assert before == []
    assert after[:3] == [f"extend {ROWS - 1}", "extend 1", "propose"]


def test_the_first_token_waits_for_no_second_pass(known, monkeypatch):
    before, after = noted(known, monkeypatch, drafting=False)
    assert before == [] and after[0] == "verify 1"


def test_earlier_chunks_go_to_the_drafter_before_the_first_token(known, monkeypatch):
    before, after = noted(known, monkeypatch, block_size=4, prefill_step_size=8)
    assert before == ["extend 8", "extend 8"]
    assert after[:2] == ["extend 3", "extend 1"]


def test_the_drafter_gets_the_rows_in_its_window(known, monkeypatch):
    options = {"block_size": 4, "prefill_step_size": 8, "window": 5}
    before, after = noted(known, monkeypatch, **options)
    # With the prompt's last row, which comes alone, they are five.
    assert before == ["extend 1"] and after[:2] == ["extend 3", "extend 1"]


def test_the_features_are_computed_with_the_prompt(known):
    """Else the whole graph of the prefill would stay in memory."""
    model, prompt, _ = known
    cache = PromptCache(Pair.of(model, make_drafter()))
    rounds = decode(cache.pair, prompt, prompt_cache=cache)
    next(rounds)
    held = cache.owner.prompt_features
    seen = []
    # Another thread cannot evaluate what is pending.
    thread = Thread(target=lambda: seen.append(mx.sum(held).item()))
    thread.start()
    thread.join()
    assert held.shape == (1, ROWS - 1, 128) and len(seen) == 1


@pytest.mark.parametrize("elsewhere", (False, True))
def test_an_answer_closed_at_its_first_token_keeps_the_drafters_context(
    known, elsewhere
):
    model, prompt, answer = known
    pair = Pair.of(model, make_drafter())
    whole, cut = PromptCache(pair), PromptCache(pair)
    for cache, tokens in ((whole, 3), (cut, 9)):
        rounds = decode(pair, prompt, max_tokens=tokens, prompt_cache=cache)
        if cache is whole:
            list(rounds)
            continue
        next(rounds)
        thread = Thread(target=rounds.close)
        thread.start() if elsewhere else rounds.close()
        if elsewhere:
            thread.join()
    assert not cut.broken and cut.tokens + cut.tail == prompt + answer[:1]
    for mine, wanted in zip(cut.drafter, whole.drafter, strict=True):
        assert mine.seen(ROWS - 1) == wanted.seen(ROWS - 1) == ROWS - 1
        for x, y in zip(mine.fetch(), wanted.fetch(), strict=True):
            assert mx.array_equal(x[..., : ROWS - 1, :], y[..., : ROWS - 1, :])
    assert run(pair, cut.reuse(prompt + answer[:1]), 8, prompt_cache=cut) == answer[1:9]


def test_a_snapshot_before_the_last_token_has_the_drafters_context(known):
    model, prompt, _ = known
    pair = Pair.of(model, make_drafter(window=8))
    cache = PromptCache(pair)
    rest = cache.reuse(prompt)
    next(decode(pair, rest, prompt_cache=cache))
    [snapshot] = cache.snapshots.all
    assert snapshot.rows == ROWS - 1
    assert {state.numbers["offset"] for state in snapshot.drafter.values()} == {
        ROWS - 1
    }
    assert all(state.arrays[0].shape[2] == 8 for state in snapshot.drafter.values())
