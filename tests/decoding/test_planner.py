"""Rounds of every kind in one answer: the words stay, and what is reported is true."""

from __future__ import annotations

import random
import time

import mlx.core as mx
import pytest

from dflash_mlx import (
    Pair,
    PromptCache,
    Sampling,
    decode,
    load,
)
from dflash_mlx.decoding import loop
from dflash_mlx.decoding.planner import Guess, Planner
from dflash_mlx.decoding.round import Stops
from dflash_mlx.speculation.controller import Fixed, Plan
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP, PLAIN
from dflash_mlx.speculation.lookup import Lookup
from dflash_mlx.text.chat_template import apply_template
from dflash_mlx.types import KVBits, Round
from tests.equipment import architectures
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.models.drafters.test_dspark import make_dspark
from tests.models.targets.test_targets import SAME_BITS

TOKENS = 70


class Restless:
    """Another width and another proposer every round, drawn; keeps all reports."""

    seed, made, uses_confidence = 0, [], True

    def __init__(self, widest, history):
        self.widest, self.draw = widest, random.Random(self.seed)
        self.reports, self.judged, self.asked, self.words = [], [], [], []
        self.steady, self.aways = [], []
        Restless.made.append(self)

    def plan(self, context, left, found=None):
        """Plain rounds may be asked for twice: once before their token is known."""
        self.draw.seed(f"{self.seed} {context} {left}")
        offers = [Plan()] + [Plan(guess=6)] * 3 * (left > 6)
        offers += [Plan(w, DRAFTER) for w in range(2, min(self.widest, left) + 1)]
        if found is not None:
            self.asked.append(found)
            most = min(found.drafts + 1, left)
            offers += [Plan(w, LOOKUP) for w in range(2, most + 1)] * 2
        return self.draw.choice(offers)

    def report(self, plan, round, context, seconds, kind="", steady=True, away=0.0):
        self.reports.append((plan, round, context, seconds, kind))
        self.steady.append(steady)
        self.aways.append(away)

    def trim(self, rows, confidence, context):
        return self.draw.randint(1, rows)

    def count_confidence(self, confidence, accepted):
        self.words.append((confidence, accepted))

    def judge(self, source, kind, judged, accepted):
        self.judged.append((source, kind, judged, accepted))


@pytest.fixture(params=(1, 2, 4))
def restless(request, monkeypatch):
    """Widths that change every round."""
    monkeypatch.setattr(Restless, "seed", request.param)
    monkeypatch.setattr(Restless, "made", [])
    monkeypatch.setattr(loop, "Controller", Restless)
    return Restless


def repeating(length, seed=5):
    """A prompt in which the same words come again, so that lookup finds something."""
    words = some_prompt(12, seed)
    return (words + some_prompt(5, seed + 1) + words)[:length]


@pytest.mark.parametrize("family", ("qwen3", "llama", "qwen3_moe"))
@pytest.mark.parametrize("dtype", ("float32", "4bit"))
def test_any_mixture_of_rounds_says_the_same(restless, family, dtype):
    model, prompt = make_model(family, dtype), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    cache, told = PromptCache(pair), []
    for round in decode(pair, prompt, max_tokens=TOKENS, prompt_cache=cache):
        told += round.tokens
    assert told == answer
    assert cache.tokens + cache.tail == prompt + answer
    sources = {report[0].source for report in restless.made[0].reports}
    widths = {report[0].width for report in restless.made[0].reports}
    assert {PLAIN, DRAFTER} <= sources and len(widths) > 4


@pytest.mark.parametrize("family", sorted({*SAME_BITS} - {"qwen3", "qwen3_moe"}))
@pytest.mark.slow
def test_any_mixture_in_targets_that_keep_more_than_rows(restless, family):
    """Recurrent states, short convolutions, experts: after rounds of every kind."""
    model = architectures.build(family)
    prompt = repeating(29)
    answer = run(Pair.of(model), prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    cache = PromptCache(pair)
    assert run(pair, prompt, TOKENS, prompt_cache=cache) == answer
    more = some_prompt(4, 8)
    wanted = run(Pair.of(model), cache.tokens + cache.tail + more, 12)
    pair.drafter.text = cache.tokens + cache.tail + more + wanted
    assert run(pair, more, 12, prompt_cache=cache) == wanted


OPTIONS = {
    "sampled": {"sampling": Sampling(temp=1.2, top_p=0.95, seed=3)},
    "penalties": {"sampling": Sampling(repetition_penalty=1.3, logit_bias={3: 2.0})},
    "quantized cache": {"kv": KVBits(8, 32, 40)},
    "bounded cache": {"max_kv_size": 48},
    "small steps": {"prefill_step_size": 7},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_any_mixture_under_any_option(restless, name):
    model, prompt, options = make_model("qwen3"), repeating(29), OPTIONS[name]
    answer = run(Pair.of(model), prompt, TOKENS, **options)
    for drafter in (make_drafter(), Script(prompt + answer, [3, 0, 99])):
        assert run(Pair.of(model, drafter), prompt, TOKENS, **options) == answer


def test_reports_add_up_to_the_text(restless):
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    told = list(decode(pair, prompt, max_tokens=TOKENS))
    reports = restless.made[0].reports
    assert [report[1] for report in reports] == told[1:]
    at = len(prompt) + 1
    for plan, round, context, seconds, kind in reports:
        assert context == at and plan.width == round.width and seconds > 0
        assert plan.source == round.source and bool(kind) == (plan.source == LOOKUP)
        at += len(round.tokens)


def test_guesses_are_judged_by_what_follows(restless):
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    text = prompt + answer
    pair = Pair.of(model, Script(text, [99], vocab=97))  # always right
    run(pair, prompt, TOKENS)
    judged = [entry for entry in restless.made[0].judged if entry[0] == DRAFTER]
    assert judged and all(drafts == kept for _, _, drafts, kept in judged)
    pair = Pair.of(model, Script(text, [0]))  # always wrong
    run(pair, prompt, TOKENS)
    judged = [entry for entry in restless.made[1].judged if entry[0] == DRAFTER]
    assert judged and all(kept == 0 for _, _, _, kept in judged)


def test_a_guess_is_reported_as_one(restless):
    """Or it would cost nothing, and be made every round."""
    run(Pair.of(make_model("llama"), make_drafter()), repeating(29), TOKENS)
    told = restless.made[0]
    guessed = [report[0].guess for report in told.reports if report[0].guess]
    judged = [entry for entry in told.judged if entry[0] == DRAFTER]
    assert set(guessed) == {6} and len(guessed) >= len(judged) > 0


def test_a_guess_changes_no_cache(monkeypatch):
    class Guessing(Restless):
        def plan(self, context, left, found=None):
            return Plan(guess=6) if left > 6 else Plan()

    monkeypatch.setattr(loop, "Controller", Guessing)
    model, prompt = make_model("qwen3"), some_prompt(20)
    answer = reference(model, prompt, 30)
    pair = Pair.of(model, make_drafter())
    cache, plain = PromptCache(pair), PromptCache(pair)
    assert run(pair, prompt, 30, prompt_cache=cache) == answer
    assert run(pair, prompt, 30, prompt_cache=plain, speculate=False) == answer
    assert {entry.offset for entry in cache.drafter} == {len(cache.tokens)}
    for ours, theirs in zip(cache.target, plain.target, strict=True):
        for x, y in zip(ours.keys_and_values(), theirs.keys_and_values(), strict=True):
            rows = len(cache.tokens)
            assert mx.array_equal(x[..., :rows, :], y[..., :rows, :])


def test_the_drafter_knows_all_after_many_plain_rounds(monkeypatch):
    """Parked, then back: its context has every committed row, as if never parked."""

    class Late(Restless):
        def plan(self, context, left, found=None):
            return Plan() if left > 20 else Plan(min(8, left), DRAFTER)

    model, prompt = make_model("qwen3"), some_prompt(20)
    wanted = list(decode(Pair.of(model, make_drafter()), prompt, max_tokens=120))[-1]
    monkeypatch.setattr(loop, "Controller", Late)
    pair = Pair.of(model, make_drafter())
    parked, always = PromptCache(pair), PromptCache(pair)
    said = run(pair, prompt, 120, prompt_cache=parked)
    assert run(pair, prompt, 120, prompt_cache=always, block_size=8) == said
    assert said[-len(wanted.tokens) :] == wanted.tokens
    for ours, theirs in zip(parked.drafter, always.drafter, strict=True):
        assert ours.offset == theirs.offset
        for x, y in zip(ours.fetch(), theirs.fetch(), strict=True):
            assert mx.allclose(x, y, atol=1e-5)


def test_the_callers_time_is_not_counted():
    now = [0.0]
    planner = Planner(Fixed(1), [1, 2], Stops((), None, 9), 9)
    planner.watch.clock = lambda: now[0]
    planner.watch.lap()
    with planner.watch.paused():
        now[0] += 100.0
    now[0] += 1.0
    assert planner.watch.lap() == 1.0 and planner.watch.away == 100.0
    planner.watch.lap()
    assert planner.watch.away == 0.0


def test_the_callers_time_is_told_beside(restless):
    pair = Pair.of(make_model("llama"), make_drafter())
    for _ in decode(pair, repeating(29), max_tokens=8):
        time.sleep(0.01)
    assert restless.made[0].aways and min(restless.made[0].aways) >= 0.01


class Modest(Script):
    """Right, and never sure of it."""

    confident, word = True, 0.1

    def propose_with_confidence(self, anchor, cache, width, choose):
        drafts = self.propose(anchor, cache, width, choose)
        return drafts, mx.full(drafts.shape, self.word)


def test_guesses_in_a_row_are_judged_where_they_are_right(monkeypatch):
    class Doubting(Restless):
        def plan(self, context, left, found=None):
            return Plan(min(6, left), DRAFTER) if left > 1 else Plan()

        def trim(self, rows, confidence, context):
            return 1

    monkeypatch.setattr(Restless, "made", [])
    monkeypatch.setattr(loop, "Controller", Doubting)
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, 40)
    pair = Pair.of(model, Modest(prompt + answer, [99]))
    assert run(pair, prompt, 40) == answer
    told = Restless.made[0]
    judged = [entry[2:] for entry in told.judged if entry[0] == DRAFTER]
    assert judged.count((5, 5)) >= 6 and len(told.words) >= 6


@pytest.mark.parametrize(
    "said,verdict",
    [([], None), ([7], None), ([7, 8], (2, 2)), ([9], (2, 0)), ([7, 9, 1], (2, 1))],
)
def test_verdict_of_a_guess(said, verdict):
    assert Guess(DRAFTER, "", 1, [7, 8]).verdict([5, *said]) == verdict


def test_a_confidence_that_is_no_number_counts_as_none():
    model, prompt = make_model("llama"), repeating(29)
    drafter = Modest(prompt + reference(model, prompt, 20), [99])
    drafter.word = float("nan")
    assert run(Pair.of(model, drafter), prompt, 20) == drafter.text[29:]


def test_lookup_drafts_what_the_text_said_before(monkeypatch):
    class Copying(Restless):
        def plan(self, context, left, found=None):
            most = min(found.drafts + 1 if found else 1, left)
            return Plan(most, LOOKUP) if most > 1 else Plan()

    monkeypatch.setattr(loop, "Controller", Copying)
    pair, tokenizer = load("tiny")
    question = {"role": "user", "content": "Write the 9 times table up to 12."}
    first = apply_template(tokenizer, [question])
    answer = run(pair, first, 60, speculate=False)
    said = {"role": "assistant", "content": tokenizer.decode(answer)}
    again = apply_template(tokenizer, [question, said, question])
    rounds = list(decode(pair, again, max_tokens=60))
    told = [token for round in rounds for token in round.tokens]
    assert told == run(pair, again, 60, speculate=False)
    copied = [round for round in rounds if round.source == LOOKUP]
    assert sum(round.accepted for round in copied) > 30


def test_proposals_that_nobody_takes_are_judged_where_they_belong():
    control, text = Restless(8, None), [1, 2, 3, 4, 5, 1, 2, 3]
    control.plan = lambda context, left, found: Plan()
    planner = Planner(control, text, Stops((), None, 40), 40, Lookup(text))
    for token in [4, 5, 1, 2, 3] * 4:
        planner.next()
        text.append(token)
        planner.report(Round([token], 0, 0, 1))
    assert control.judged == [(LOOKUP, "short", 15, 15)]
    # What is verified counts once.
    assert LOOKUP in planner.guesses
    control.plan = lambda context, left, found: Plan(3, LOOKUP)
    planner.confidence = [0.1] * 7  # the drafter's, in another block
    assert text[-1] == 3 and planner.next().drafts == [4, 5]
    assert LOOKUP not in planner.guesses and planner.confidence == []
    text += [4, 5]
    planner.report(Round([4, 5], 2, 2, 3, LOOKUP))
    assert control.reports[-1][4] == planner.lookup.find(1).kind == "whole"


def test_no_guess_outlives_a_restart():
    planner = Planner(Fixed(1), [1, 2], Stops((), None, 9), 9)
    planner.guesses[DRAFTER] = Guess(DRAFTER, "", 2, [7, 8])
    planner.begin()
    assert not planner.guesses


def test_drafts_behind_the_end_of_a_text_say_nothing_of_trust():
    control, text = Restless(8, None), [1, 2]
    planner = Planner(control, text, Stops((), None, 9), 9)
    planner.plan, planner.confidence = Plan(6, DRAFTER), [0.9] * 5
    text += [3, 4, 5]
    round = Round([3, 4, 5], 5, 3, 6, DRAFTER)
    planner.report(round)
    assert round.judged == 3
    assert control.words == [([0.9] * 3, 3)]


def test_lookup_knows_the_text_as_it_grows():
    text = [1, 2, 3, 4]
    lookup = Lookup(text)
    assert lookup.find(4) is None
    text += [1, 2, 3]
    assert lookup.find(2).tokens == [4, 1]


def test_confidence_cuts_blocks_and_is_checked_by_what_is_kept(restless):
    """A DSpark drafter with a head of its own, cut anywhere: the words stay."""
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, make_dspark(enable_confidence_head=True))
    assert pair.drafter.confident
    assert run(pair, prompt, TOKENS) == answer
    words = restless.made[0].words
    assert words and all(
        0 <= word <= 1 for confidence, _ in words for word in confidence
    )
    assert all(accepted <= len(confidence) for confidence, accepted in words)


def test_a_drafter_without_a_head_is_not_asked(restless):
    pair = Pair.of(make_model("llama"), make_dspark(enable_confidence_head=False))
    run(pair, repeating(29), 30)
    assert not pair.drafter.confident and not restless.made[0].words


def test_plain_rounds_are_timed_only_between_others(monkeypatch):
    """Beside a block, a single row is read at once or waits for two passes."""

    class Bursts(Restless):
        def plan(self, context, left, found=None):
            plain = 40 < context < 50 or left < 3
            return Plan() if plain else Plan(min(2, left), DRAFTER)

    monkeypatch.setattr(Restless, "made", [])
    monkeypatch.setattr(loop, "Controller", Bursts)
    pair = Pair.of(make_model("llama"), make_drafter())
    run(pair, some_prompt(20), 60)
    told = Restless.made[0]
    single = [report[0] == Plan() for report in told.reports]
    for i, steady in enumerate(told.steady[1:-1], 1):
        assert not steady or all(single[i - 1 : i + 2])
    assert sum(told.steady) >= 5
