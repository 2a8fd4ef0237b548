"""What the planner reports to the controller, and when drafts become probes."""

from __future__ import annotations

import random
import time

import mlx.core as mx
import pytest

from dflash_mlx import (
    Pair,
    PromptCache,
    decode,
    load,
)
from dflash_mlx.decoding import loop
from dflash_mlx.decoding.planner import Planner, Probe
from dflash_mlx.decoding.round import Stops
from dflash_mlx.speculation.controller import Plan
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP
from dflash_mlx.speculation.fixed_width import FixedWidth
from dflash_mlx.speculation.lookup import Lookup
from dflash_mlx.text.chat_template import apply_template
from dflash_mlx.types import Round
from tests.equipment.random_controller import RandomController, repeating
from tests.equipment.tiny import (
    Script,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)
from tests.models.drafters.test_dspark import make_dspark

TOKENS = 70


@pytest.mark.slow
def test_recorded_rounds_add_up_to_the_text(controllers):
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, Script(prompt + answer, [2, 0, 5, 1, 99, 3]))
    rounds = list(decode(pair, prompt, max_tokens=TOKENS))
    records = controllers.made[0].rounds
    assert [record[1] for record in records] == rounds[1:]
    at = len(prompt) + 1
    for plan, round, context, seconds, kind in records:
        assert context == at and plan.width == round.width and seconds > 0
        assert plan.source == round.source and bool(kind) == (plan.source == LOOKUP)
        at += len(round.tokens)


@pytest.mark.slow
def test_probes_are_compared_with_the_text(controllers):
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    text = prompt + answer
    pair = Pair.of(model, Script(text, [99], vocab=97))  # always right
    run(pair, prompt, TOKENS)
    probes = [record for record in controllers.made[0].drafts if record[0] == DRAFTER]
    assert probes and all(drafts == kept for _, _, drafts, kept in probes)
    pair = Pair.of(model, Script(text, [0]))  # always wrong
    run(pair, prompt, TOKENS)
    probes = [record for record in controllers.made[1].drafts if record[0] == DRAFTER]
    assert probes and all(kept == 0 for _, _, _, kept in probes)


@pytest.mark.slow
def test_a_probe_is_recorded_with_its_round(controllers):
    """Or it would cost nothing, and be made every round."""
    run(Pair.of(make_model("llama"), make_drafter()), repeating(29), TOKENS)
    made = controllers.made[0]
    rows = [record[0].probe_rows for record in made.rounds if record[0].probe_rows]
    compared = [record for record in made.drafts if record[0] == DRAFTER]
    assert set(rows) == {6} and len(rows) >= len(compared) > 0


@pytest.mark.slow
def test_a_probe_changes_no_cache(monkeypatch):
    class Probing(RandomController):
        def plan(self, context, left, match=None):
            return Plan(probe_rows=6) if left > 6 else Plan()

    monkeypatch.setattr(loop, "Controller", Probing)
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


@pytest.mark.slow
def test_the_drafters_context_is_complete_after_plain_rounds(monkeypatch):
    """Parked and back, it has every committed row."""

    class Late(RandomController):
        def plan(self, context, left, match=None):
            return Plan() if left > 20 else Plan(min(8, left), DRAFTER)

    model, prompt = make_model("qwen3"), some_prompt(20)
    wanted = list(decode(Pair.of(model, make_drafter()), prompt, max_tokens=120))[-1]
    monkeypatch.setattr(loop, "Controller", Late)
    pair = Pair.of(model, make_drafter())
    parked, always = PromptCache(pair), PromptCache(pair)
    text = run(pair, prompt, 120, prompt_cache=parked)
    assert run(pair, prompt, 120, prompt_cache=always, block_size=8) == text
    assert text[-len(wanted.tokens) :] == wanted.tokens
    for ours, theirs in zip(parked.drafter, always.drafter, strict=True):
        assert ours.offset == theirs.offset
        for x, y in zip(ours.fetch(), theirs.fetch(), strict=True):
            assert mx.allclose(x, y, atol=1e-5)


def test_the_callers_time_is_not_counted():
    now = [0.0]
    planner = Planner(FixedWidth(1), [1, 2], Stops((), None, 9), 9)
    planner.watch.clock = lambda: now[0]
    planner.watch.lap()
    with planner.watch.paused():
        now[0] += 100.0
    now[0] += 1.0
    assert planner.watch.lap() == 1.0 and planner.watch.paused_seconds == 100.0
    planner.watch.lap()
    assert planner.watch.paused_seconds == 0.0


def test_the_callers_time_is_recorded_apart(controllers):
    pair = Pair.of(make_model("llama"), make_drafter())
    for _ in decode(pair, repeating(29), max_tokens=8):
        time.sleep(0.01)
    first, *seconds = controllers.made[0].caller_seconds
    # Nothing is computed while the caller uses the first token.
    assert first == 0 and seconds and min(seconds) >= 0.01


class Underconfident(Script):
    """Drafts the script's tokens with low confidence."""

    confident, confidence = True, 0.1

    def propose_with_confidence(self, anchor, cache, width, choose):
        drafts = self.propose(anchor, cache, width, choose)
        return drafts, mx.full(drafts.shape, self.confidence)


def test_probes_in_a_row_are_recorded_when_they_are_right(monkeypatch):
    class Trimming(RandomController):
        def plan(self, context, left, match=None):
            return Plan(min(6, left), DRAFTER) if left > 1 else Plan()

        def trim(self, rows, confidence, context):
            return 1

    monkeypatch.setattr(RandomController, "made", [])
    monkeypatch.setattr(loop, "Controller", Trimming)
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, 40)
    pair = Pair.of(model, Underconfident(prompt + answer, [99]))
    assert run(pair, prompt, 40) == answer
    made = RandomController.made[0]
    probes = [record[2:] for record in made.drafts if record[0] == DRAFTER]
    assert probes.count((5, 5)) >= 6 and len(made.confidences) >= 6


@pytest.mark.parametrize(
    "text,result,ended",
    [
        ([], (0, 0), False),
        ([7], (1, 1), False),
        ([7, 8], (2, 2), True),
        ([9], (2, 0), True),
        ([7, 9, 1], (2, 1), True),
    ],
)
def test_comparing_a_probe(text, result, ended):
    probe = Probe(DRAFTER, "", 1, [7, 8])
    assert probe.compare([5, *text]) == result and probe.ended == ended


def test_a_probe_is_compared_as_the_text_grows():
    probe = Probe(DRAFTER, "", 1, [7, 8, 9, 10])
    assert probe.compare([5, 7, 8]) == (2, 2) and not probe.ended
    assert probe.compare([5, 7, 8]) == (0, 0) and probe.equal == 2
    assert probe.compare([5, 7, 8, 0]) == (2, 0) and probe.ended


def test_no_probe_beside_one_that_is_right_so_far():
    control, text = RandomController(8, None), [1, 2]
    control.plan = lambda context, left, match: Plan(probe_rows=6)
    planner = Planner(control, text, Stops((), None, 40), 40)
    planner.probes[DRAFTER] = Probe(DRAFTER, "", 2, [7, 8])
    assert planner.next() == Plan()
    planner.probes.clear()
    assert planner.next() == Plan(probe_rows=6)


def test_a_verified_block_replaces_the_drafters_probe():
    control, text = RandomController(8, None), [1, 2]
    control.plan = lambda context, left, match: Plan(6, DRAFTER)
    planner = Planner(control, text, Stops((), None, 40), 40)
    planner.probes[DRAFTER] = Probe(DRAFTER, "", 2, [7, 8])
    planner.next()
    text += [3, 4]
    planner.report(Round([3, 4], 5, 1, 6, DRAFTER))
    assert not planner.probes


def test_a_confidence_that_is_not_a_number_counts_as_zero():
    model, prompt = make_model("llama"), repeating(29)
    drafter = Underconfident(prompt + reference(model, prompt, 20), [99])
    drafter.confidence = float("nan")
    assert run(Pair.of(model, drafter), prompt, 20) == drafter.text[29:]


def test_lookup_drafts_from_earlier_text(monkeypatch):
    class Copying(RandomController):
        def plan(self, context, left, match=None):
            most = min(len(match.tokens) + 1 if match else 1, left)
            return Plan(most, LOOKUP) if most > 1 else Plan()

    monkeypatch.setattr(loop, "Controller", Copying)
    pair, tokenizer = load("tiny")
    question = {"role": "user", "content": "Write the 9 times table up to 12."}
    first = apply_template(tokenizer, [question])
    answer = run(pair, first, 60, speculate=False)
    reply = {"role": "assistant", "content": tokenizer.decode(answer)}
    again = apply_template(tokenizer, [question, reply, question])
    rounds = list(decode(pair, again, max_tokens=60))
    tokens = [token for round in rounds for token in round.tokens]
    assert tokens == run(pair, again, 60, speculate=False)
    copied = [round for round in rounds if round.source == LOOKUP]
    assert sum(round.accepted for round in copied) > 30


def test_unused_lookup_proposals_are_compared_with_the_text():
    control, text = RandomController(8, None), [1, 2, 3, 4, 5, 1, 2, 3]
    control.plan = lambda context, left, match: Plan()
    planner = Planner(control, text, Stops((), None, 40), 40, Lookup(text))
    for token in [4, 5, 1, 2, 3] * 4:
        planner.next()
        text.append(token)
        planner.report(Round([token], 0, 0, 1))
    assert control.drafts[0] == (LOOKUP, "short", 15, 15)
    assert LOOKUP in planner.probes
    control.plan = lambda context, left, match: Plan(3, LOOKUP)
    planner.confidence = [0.1] * 7  # the drafter's, in another block
    assert text[-1] == 3 and planner.next().drafts == [4, 5]
    assert planner.confidence == []
    compared = planner.probes[LOOKUP]
    text += [4, 5]
    planner.report(Round([4, 5], 2, 2, 3, LOOKUP))
    # A proposal that is verified is not compared as well.
    assert planner.probes[LOOKUP] is not compared
    assert control.rounds[-1][4] == planner.lookup.find(1).kind == "whole"


def test_a_reset_drops_the_probes():
    planner = Planner(FixedWidth(1), [1, 2], Stops((), None, 9), 9)
    planner.probes[DRAFTER] = Probe(DRAFTER, "", 2, [7, 8])
    planner.reset()
    assert not planner.probes


def test_confidence_in_drafts_behind_the_texts_end_is_not_recorded():
    control, text = RandomController(8, None), [1, 2]
    planner = Planner(control, text, Stops((), None, 9), 9)
    planner.plan, planner.confidence = Plan(6, DRAFTER), [0.9] * 5
    text += [3, 4, 5]
    round = Round([3, 4, 5], 5, 3, 6, DRAFTER)
    planner.report(round)
    assert round.judged == 3
    assert control.confidences == [([0.9] * 3, 3)]


def test_lookup_follows_a_growing_text():
    text = [1, 2, 3, 4]
    lookup = Lookup(text)
    assert lookup.find(4) is None
    text += [1, 2, 3]
    assert lookup.find(2).tokens == [4, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", (0, 1, 3))
def test_lookup_follows_a_conversation_that_is_edited(seed, monkeypatch):
    """All its answers share a copy of the text, which must not fall behind."""
    searches = []

    class Checked(Lookup):
        def find(self, most):
            found = super().find(most)
            assert found == Lookup(list(self.text)).find(most)
            searches.append(found)
            return found

    monkeypatch.setattr(loop, "Lookup", Checked)
    draw, pair = random.Random(seed), Pair.of(make_model("llama"), make_drafter())
    cache = PromptCache(pair)
    for _ in range(12):
        edit = draw.randrange(5)
        if edit == 0:
            cache.take_back(draw.randrange(len(cache.text) + 1))
        elif edit == 1 and draw.random() < 0.3:
            cache.reset()
        kept = draw.randrange(len(cache.text) + 1)
        prompt = cache.text[:kept] + [draw.randrange(3) for _ in range(20)]
        rest = cache.reuse(prompt)
        options = {"block_size": draw.choice((None, None, 4)), "max_tokens": 12}
        rounds = decode(pair, rest, prompt_cache=cache, **options)
        for _ in range(draw.randrange(1, 12)):
            next(rounds, None)
        if draw.random() < 0.5:
            rounds.close()
    assert len(searches) > 20 and any(searches)


@pytest.mark.slow
def test_confidence_trims_blocks_and_is_recorded(controllers):
    """A DSpark drafter with a confidence head, trimmed anywhere: the same text."""
    model, prompt = make_model("llama"), repeating(29)
    answer = reference(model, prompt, TOKENS)
    pair = Pair.of(model, make_dspark(enable_confidence_head=True))
    assert pair.drafter.confident
    assert run(pair, prompt, TOKENS) == answer
    records = controllers.made[0].confidences
    assert records and all(
        0 <= value <= 1 for confidence, _ in records for value in confidence
    )
    assert all(accepted <= len(confidence) for confidence, accepted in records)


def test_a_drafter_without_a_confidence_head(controllers):
    pair = Pair.of(make_model("llama"), make_dspark(enable_confidence_head=False))
    run(pair, repeating(29), 30)
    assert not pair.drafter.confident and not controllers.made[0].confidences


@pytest.mark.slow
def test_plain_rounds_are_timed_only_between_others(monkeypatch):
    """Beside a block, a single row is read at once or waits for two passes."""

    class Bursts(RandomController):
        def plan(self, context, left, match=None):
            plain = 40 < context < 50 or left < 3
            return Plan() if plain else Plan(min(2, left), DRAFTER)

    monkeypatch.setattr(RandomController, "made", [])
    monkeypatch.setattr(loop, "Controller", Bursts)
    pair = Pair.of(make_model("llama"), make_drafter())
    run(pair, some_prompt(20), 60)
    made = RandomController.made[0]
    single = [record[0] == Plan() for record in made.rounds]
    for i, steady in enumerate(made.steady[1:-1], 1):
        assert not steady or all(single[i - 1 : i + 2])
    assert sum(made.steady) >= 5
