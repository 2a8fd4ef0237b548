"""Nothing that the first token does not need is done before the caller has it."""

from threading import Thread

import mlx.core as mx
import pytest

from dflash_mlx import Pair, PromptCache, Sampling, decode
from dflash_mlx.decoding import prefill
from dflash_mlx.decoding.passes import Passes
from dflash_mlx.types import KVBits
from tests.equipment import architectures
from tests.equipment.scripted import Script
from tests.equipment.tiny import (
    DTYPES,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)

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


@pytest.fixture
def in_chunks(monkeypatch):
    """Prompts are long: their last row is passed alone."""
    monkeypatch.setattr(prefill, "SHORT_ROWS", 1)


@pytest.fixture(scope="module")
def known():
    """A model, a prompt of ROWS tokens, and its answer."""
    model, prompt = make_model("qwen3"), some_prompt(ROWS)
    return model, prompt, reference(model, prompt, TOKENS)


def noted(known, monkeypatch, window=None, drafting=True, **options):
    """Events before the first round and in the second, and the decoding."""
    events, verify = [], Passes.verify

    def note_pass(self, block, *options, **named):
        events.append(f"verify {len(block)}")
        return verify(self, block, *options, **named)

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


def test_the_first_token_waits_for_no_draft(known, monkeypatch, in_chunks):
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


@pytest.mark.parametrize(("short", "rows"), ((1, ROWS - 1), (ROWS, ROWS)))
def test_the_features_are_computed_with_the_prompt(known, monkeypatch, short, rows):
    """Else the whole graph of the prefill would stay in memory."""
    monkeypatch.setattr(prefill, "SHORT_ROWS", short)
    model, prompt, _ = known
    cache = PromptCache(Pair.of(model, make_drafter()))
    rounds = decode(cache.pair, prompt, prompt_cache=cache)
    next(rounds)
    held = cache.owner.features.prompt
    seen = []
    # Another thread cannot evaluate what is pending.
    thread = Thread(target=lambda: seen.append(mx.sum(held).item()))
    thread.start()
    thread.join()
    assert held.shape == (1, rows, 128) and len(seen) == 1


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


@pytest.mark.parametrize("short", (1, ROWS))
@pytest.mark.parametrize("rounds", (1, 2))
def test_a_snapshot_before_the_last_token_has_the_drafters_context(
    known, monkeypatch, short, rounds
):
    monkeypatch.setattr(prefill, "SHORT_ROWS", short)
    model, prompt, _ = known
    pair = Pair.of(model, make_drafter(window=8))
    cache = PromptCache(pair)
    decoding = decode(pair, cache.reuse(prompt), prompt_cache=cache)
    for _ in range(rounds):
        next(decoding)
    cache.release()
    [snapshot] = cache.snapshots.all
    assert snapshot.rows == ROWS - 1
    assert {state.numbers["offset"] for state in snapshot.drafter.values()} == {
        ROWS - 1
    }
    assert all(state.arrays[0].shape[2] == 8 for state in snapshot.drafter.values())


def passed(monkeypatch, pair, prompt, **options):
    """The rows of each pass before the first token, and its logits."""
    forward, rows = Passes.forward, []

    def noting(self, tokens, *args):
        rows.append(len(tokens))
        return forward(self, tokens, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "forward", noting)
        first = next(decode(pair, prompt, **options))
    return rows, first.logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ("qwen3", "qwen3_moe"))
def test_a_short_prompt_is_passed_at_once_with_the_same_bits(
    monkeypatch, family, dtype
):
    if (family, dtype) == ("qwen3_moe", "bfloat16"):
        pytest.skip("MLX's CPU back end has no such product of gathered experts")
    model, prompt = make_model(family, dtype), some_prompt(ROWS)
    once, twice = (PromptCache(Pair.of(model, make_drafter())) for _ in range(2))
    rows, logits = passed(monkeypatch, once.pair, prompt, prompt_cache=once)
    assert rows == [ROWS]
    monkeypatch.setattr(prefill, "SHORT_ROWS", ROWS - 1)
    rows, wanted = passed(monkeypatch, twice.pair, prompt, prompt_cache=twice)
    assert rows == [ROWS - 1, 1]
    assert logits.shape == wanted.shape and mx.array_equal(logits, wanted)
    for ours, theirs in zip(
        once.target + once.drafter, twice.target + twice.drafter, strict=True
    ):
        assert ours.offset == theirs.offset == ROWS
    for ours, theirs in zip(once.target, twice.target, strict=True):
        for x, y in zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True):
            assert mx.array_equal(x, y)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma4_text", {}),  # its passes differ in the last bits
        ("gemma3_text", {}),  # windows
        ("qwen3_next", {}),  # recurrent layers
        ("qwen3", {"kv": KVBits(8, 32, 4)}),
        ("qwen3", {"max_kv_size": 24}),
    ],
)
def test_other_prompts_pass_their_last_row_alone(monkeypatch, family, options):
    # The heads of the other qwen3 are too small to be quantized.
    build = make_model if family == "qwen3" else architectures.build
    pair = Pair.of(build(family))
    rows, _ = passed(monkeypatch, pair, some_prompt(ROWS), **options)
    assert rows[-2:] == [ROWS - 1, 1]


def test_penalties_see_all_of_a_short_prompt(known):
    model, prompt, _ = known
    sampling = Sampling(repetition_penalty=1.5)
    drafting = Pair.of(model, make_drafter())
    answers = [
        run(pair, prompt, TOKENS, sampling=sampling, prefill_step_size=step)
        for pair, step in ((Pair.of(model), 4), (drafting, 2048))
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("window", "passes"), [(64, [ROWS]), (8, [3, ROWS - 4, 1])])
def test_marks_of_a_short_prompt_cost_no_passes(known, monkeypatch, window, passes):
    """Where the drafter's window has room for it, and the target can be cut."""
    model, prompt, _ = known
    cache = PromptCache(Pair.of(model, make_drafter(window=window)))
    rest = cache.reuse(prompt, marks=[3])
    assert cache.marks == [3, ROWS - 1]
    rows, _ = passed(monkeypatch, cache.pair, rest, prompt_cache=cache)
    assert rows == passes
