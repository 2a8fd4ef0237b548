"""A grammar beside the planner: what is reported, drafted first, and sent early."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx import Pair
from dflash_mlx.decoding import round as round_module
from dflash_mlx.decoding.constraint import put_first
from dflash_mlx.decoding.passes import Passes
from dflash_mlx.decoding.planner import Planner
from dflash_mlx.decoding.round import Stops
from dflash_mlx.decoding.sampling import mask_logits
from dflash_mlx.speculation.controller import Controller, Plan
from dflash_mlx.speculation.costs import DRAFTER, FORCED, LOOKUP
from dflash_mlx.speculation.fixed_width import FixedWidth
from dflash_mlx.speculation.history import History
from dflash_mlx.speculation.lookup import Lookup
from dflash_mlx.text.grammar import Grammar
from dflash_mlx.types import Round
from tests.equipment.grammars import answer, make_speaker, tiny_tokenizer
from tests.equipment.random_controller import RandomController
from tests.equipment.tiny import Script, some_prompt

PROMPT = some_prompt(12)


@pytest.mark.parametrize("dtype", (mx.float32, mx.bfloat16))
@pytest.mark.parametrize("width", (31, 32, 33, 100))
def test_a_mask_keeps_the_bits_of_legal_logits(width, dtype):
    logits = mx.random.normal((3, width)).astype(dtype)
    legal = np.random.default_rng(0).random((3, width)) < 0.5
    padded = np.zeros((3, 128), np.uint8)
    padded[:, :width] = legal
    words = np.packbits(padded, axis=1, bitorder="little").view(np.uint32)
    words = words[:, : (width + 31) // 32]
    masked = mask_logits(logits, mx.array(words))
    assert masked.dtype == dtype
    assert mx.array_equal(masked == -mx.inf, mx.array(~legal))
    assert mx.array_equal(mx.where(mx.array(legal), masked, logits), logits)
    assert mask_logits(logits, None) is logits


def test_forced_tokens_go_first():
    block, sure = mx.array([5, 1, 2, 3], mx.uint32), mx.array([0.1, 0.2, 0.3])
    for forced, drafts in (([7], [7, 2, 3]), ([7, 8, 9, 6], [7, 8, 9])):
        found, confidence = put_first(forced, block, sure)
        assert found.tolist() == [5, *drafts] and found.dtype == mx.uint32
        n = len(forced[:3])
        assert mx.allclose(confidence, mx.array([1.0] * n + [0.1, 0.2, 0.3][n:]))
        assert put_first(forced, block, None)[1] is None


def make_planner(plan, lookup=True):
    control, text = RandomController(8, None), [1, 2, 3, 4, 5, 1, 2, 3]
    control.plan = lambda context, left, match: plan
    find = Lookup(text) if lookup else None
    return Planner(control, text, Stops((), None, 40), 40, find), control, text


def test_an_illegal_draft_counts_as_one_that_was_not_kept():
    planner, control, text = make_planner(Plan(6, DRAFTER))
    planner.next()
    block = planner.drop_illegal(mx.array([3, 7, 8, 9, 10, 11]), 3)
    assert block.tolist() == [3, 7, 8]
    text += [7, 8, 9]
    planner.report(Round([7, 8, 9], 2, 2, 3, DRAFTER))
    plan, round, *_ = control.rounds[-1]
    assert plan.width == 3 and (round.judged, round.accepted) == (3, 2)
    planner.next()
    planner.drop_illegal(mx.array([9, 1, 2]), 3)
    text += [1, 4]
    planner.report(Round([1, 4], 2, 1, 3, DRAFTER))
    assert control.rounds[-1][1].judged == 2


def test_a_block_without_a_legal_draft_becomes_a_probe():
    planner, control, text = make_planner(Plan(6, DRAFTER))
    planner.next()
    block = planner.drop_illegal(mx.array([3, 7, 8, 9, 10, 11]), 1)
    assert block.tolist() == [3]
    text.append(4)
    planner.report(Round([4], 0, 0, 1))
    assert control.rounds[-1][0] == Plan(probe_rows=6)
    assert (DRAFTER, "", 5, 0) in control.drafts
    planner, control, text = make_planner(Plan(4, LOOKUP))
    assert planner.next().drafts == [4, 5, 1]
    planner.drop_illegal(mx.array([3, 4, 5, 1]), 1)
    text.append(9)
    planner.report(Round([9], 0, 0, 1))
    assert control.rounds[-1][0] == Plan() and control.drafts[0] == (
        LOOKUP,
        "short",
        1,
        0,
    )


def test_forced_tokens_are_offered_instead_of_another_match():
    planner, _, _ = make_planner(Plan(3, FORCED))
    planner.forced = [4, 9]
    assert planner.next().drafts == [4, 9]
    assert planner.match.source == FORCED
    planner.forced = [4, 5]  # as lookup has it, and goes on
    assert planner._look_up().tokens[:4] == [4, 5, 1, 2]
    planner.plan = Plan(3, FORCED)
    planner.report(Round([4], 0, 0, 1))
    assert planner.forced == []


@pytest.mark.parametrize("lookup", (True, False))
def test_a_drafter_is_not_asked_for_what_is_forced(lookup):
    planner, _, _ = make_planner(Plan(3, DRAFTER), lookup)
    planner.forced = [4, 9, 9]
    plan = planner.next()
    assert (plan.source, plan.width, plan.drafts) == (FORCED, 3, [4, 9])
    planner.forced = [4]
    assert planner.next() == Plan(3, DRAFTER)


def test_no_plain_rounds_are_planned_for_their_time_under_a_grammar():
    """They would not be pipelined, so their time would not count."""
    control, text = Controller(8, History()), [1] * 30
    planner = Planner(control, text, Stops((), None, 99), 99, Lookup([]))
    for masked in (False, True):
        control.timing_rounds_left, control.history.since_plain = 0, 1000
        planner.masked, planner.plan = masked, Plan(4, DRAFTER)
        planner.report(Round([1, 1], 3, 1, 4, DRAFTER))
        assert bool(control.timing_rounds_left) != masked


def events_of(monkeypatch, pair, grammar, **options):
    """The order in which passes are sent and choices read."""
    events, stock_verify, stock_read = [], Passes.verify, round_module.read

    def verify(self, *arguments, **more):
        events.append("send")
        return stock_verify(self, *arguments, **more)

    def read(*arguments):
        events.append("read")
        return stock_read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "verify", verify)
        patch.setattr(round_module, "read", read)
        answer(pair, PROMPT, grammar, **options)
    return events


def test_plain_decoding_stays_pipelined_under_a_grammar(monkeypatch):
    pair, grammar = (
        Pair.of(make_speaker()),
        Grammar.of_regex(tiny_tokenizer(), "[0-9]+"),
    )
    events = events_of(monkeypatch, pair, grammar, tokens=8)
    assert events == ["read", "send"] + ["send", "read"] * 6 + ["read"]


def test_blocks_wait_for_the_grammar_only_where_it_masks(monkeypatch):
    """Parked rounds are sent ahead up to the marker; behind it a run may be forced."""
    monkeypatch.setattr(Controller, "plan", lambda *arguments: Plan())
    model, lark = make_speaker(), 'start: /[0-9]/ "The product is" /[0-9]/'
    grammar = Grammar.of_lark(tiny_tokenizer(), lark)
    pair = Pair.of(model, Script([0] * 99, [0]))
    free = events_of(monkeypatch, pair, grammar.after("never said"), tokens=5)
    assert free == ["read", "send", "send", "read", "send", "read", "send", "read"] + [
        "read"
    ]
    masked = events_of(monkeypatch, pair, grammar, tokens=5)
    assert masked == ["read"] + ["send", "read"] * 4


def test_a_fixed_width_of_one_is_plain():
    for width in (1, 4):
        planner = Planner(FixedWidth(width), [1], Stops((), None, 9), 9)
        assert planner.is_plain == (width == 1)
