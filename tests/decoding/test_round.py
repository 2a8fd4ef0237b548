"""One round without a model: the tokens kept and the order of the steps."""

import mlx.core as mx
import pytest

from dflash_mlx.decoding.requests import run_alone
from dflash_mlx.decoding.round import Stops, leading_equal, play_round
from dflash_mlx.speculation.controller import Plan
from dflash_mlx.speculation.costs import DRAFTER, LOOKUP, PLAIN

ANCHOR = 50
WANTED = [1, 2, 3, 4, 5, 6]  # the target's choices


class FakePasses:
    """Drafts given tokens; its target always chooses WANTED."""

    def __init__(self, drafts):
        self.drafts, self.steps, self.committed = drafts, [], None

    def draft(self, plan):
        self.steps.append("draft")
        return mx.array([ANCHOR, *self.drafts][: max(plan.width, 1)], dtype=mx.uint32)

    def verify(self, block):
        self.steps.append("verify")
        yield
        choices = mx.array(WANTED[: len(block)], dtype=mx.uint32)
        return choices, mx.zeros((len(block), 9))

    def commit(self, tokens):
        self.steps.append("commit")
        self.committed = tokens


def play(drafts, plan=None, stop_ids=(), scan=None, left=99):
    passes, stops = FakePasses(drafts), Stops(stop_ids, scan, left)
    plan = plan or Plan(len(drafts) + 1, DRAFTER)
    return run_alone(play_round(passes, plan, stops)), passes, stops


@pytest.mark.parametrize("right", range(5))
def test_correct_leading_drafts_and_the_bonus_token_are_kept(right):
    drafts = WANTED[:right] + [9] * (4 - right)
    round, passes, stops = play(drafts)
    assert round.tokens == passes.committed == WANTED[: right + 1]
    assert (round.drafted, round.accepted, round.width) == (4, right, 5)
    assert round.logits.shape == (right + 1, 9) and round.source == DRAFTER
    assert stops.left == 99 - right - 1 and not stops.ended
    assert passes.steps == ["draft", "verify", "commit"]


def test_a_correct_draft_behind_a_wrong_one_is_not_kept():
    round, _, _ = play([1, 9, 3, 4])
    assert round.tokens == [1, 2] and round.accepted == 1


def test_a_plain_round_and_a_prefill():
    for width in (0, 1):
        round, passes, _ = play([], Plan(width))
        assert round.tokens == passes.committed == [1]
        assert (round.drafted, round.accepted, round.width) == (0, 0, width)
        assert round.source == PLAIN and round.logits.shape == (1, 9)


def test_a_block_with_only_its_anchor_is_plain():
    round, _, _ = play([], Plan(4, LOOKUP))
    assert (round.width, round.source) == (1, PLAIN)


@pytest.mark.parametrize("at", range(5))
def test_a_stop_token_ends_the_text_inside_the_block(at):
    round, passes, stops = play(WANTED[:4], stop_ids={WANTED[at]})
    assert round.tokens == passes.committed == WANTED[: at + 1] and stops.ended
    assert round.accepted == min(4, at + 1) and len(round.logits) == at + 1


@pytest.mark.parametrize("left", range(1, 7))
def test_the_limit_ends_the_text_inside_the_block(left):
    round, passes, stops = play(WANTED[:4], left=left)
    assert round.tokens == passes.committed == WANTED[: min(left, 5)]
    assert stops.ended == (left <= 5) and stops.left == max(left - 5, 0)


def test_scan_gets_the_tokens_up_to_a_stop_token_or_the_limit():
    seen = []

    def scan(tokens):
        seen.append(list(tokens))
        return 2 if len(seen) == 2 else None

    stops = Stops({3}, scan, 99)
    assert stops.cut([1, 2, 3, 4]) == [1, 2, 3] and stops.ended
    stops = Stops((), scan, 4)
    assert stops.cut([1, 2, 3, 4, 5]) == [1, 2] and stops.ended and stops.left == 2
    assert seen == [[1, 2, 3], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [([], [], 0), ([1], [1], 1), ([1], [2], 0), ([1, 2, 3], [1, 5, 3], 1)],
)
def test_leading_equal(a, b, wanted):
    arrays = (mx.array(x, dtype=mx.uint32) for x in (a, b))
    assert leading_equal(*arrays).tolist() == [wanted]
