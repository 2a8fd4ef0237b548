"""Chances of drafts: how counts weigh, and how a drafter's confidence is corrected."""

import json
import random
from statistics import mean

import pytest

from dflash_mlx.speculation.acceptance import (
    LEVELS,
    Acceptance,
    ConfidenceCalibration,
)


def test_confidence_is_corrected_by_what_is_kept():
    confidence = ConfidenceCalibration()
    assert confidence.chances([0.9, 0.1]) == [0.9, 0.1]
    for _ in range(100):
        confidence.record([0.9, 0.9, 0.1], 1)  # an overconfident drafter
    high, low = confidence.chances([0.9, 0.1])
    assert high == pytest.approx(0.5, abs=0.05) and low == 0.1


def first_chance(acceptance):
    return acceptance.expected_tokens(1)[1] - 1.0


def test_a_few_blocks_show_that_a_text_has_turned():
    for first, then, least, most in ((0, 7, 0.7, 1.0), (7, 0, 0.0, 0.3)):
        acceptance = Acceptance()
        for kept in [first] * 60 + [then] * 3:
            acceptance.record(7, kept)
        assert least < first_chance(acceptance) < most


@pytest.mark.parametrize("chance", (0.05, 0.35, 0.75, 0.95))
def test_the_expected_tokens_of_a_steady_text(chance):
    draw, acceptance, found = random.Random(3), Acceptance(), []
    for _ in range(300):
        accepted = 0
        while accepted < 7 and draw.random() < chance:
            accepted += 1
        acceptance.record(7, accepted)
        found.append(acceptance.expected_tokens(7)[7])
    expected = sum(chance**i for i in range(8))
    assert mean(found[50:]) == pytest.approx(expected, rel=0.1)


def test_the_parts_of_a_block_tell_as_much_as_the_whole():
    whole, parts = Acceptance(), Acceptance()
    whole.record(7, 3)
    for judged, accepted, first in ((1, 1, 0), (2, 2, 1), (4, 0, 3)):
        parts.record(judged, accepted, first)
    assert parts.belief == pytest.approx(whole.belief, abs=0.02)


def test_places_at_which_a_drafter_is_worse_are_learnt():
    acceptance = Acceptance()
    for i in range(400):
        acceptance.record(4, 1 if i % 2 else 4)  # the second is often wrong
    tokens = acceptance.expected_tokens(4)
    chances = [
        (tokens[i + 1] - tokens[i]) / (tokens[i] - tokens[i - 1]) for i in (1, 2, 3)
    ]
    assert tokens[1] > 1.9 and chances[0] < 0.7 < 0.85 < chances[1]


def test_a_new_text_starts_from_the_texts_before():
    for kept, least, most in ((0, 0.0, 0.25), (7, 0.8, 1.0)):
        acceptance = Acceptance()
        before = first_chance(acceptance)
        for _ in range(12):
            for _ in range(10):
                acceptance.record(7, kept)
            acceptance.start_text()
        assert least < first_chance(acceptance) < most
        # What is believed of a new pair keeps a share, so that a surprise is noticed.
        assert acceptance.prior.min() > 0.001 and 0.4 < before < 0.7


def test_a_text_without_drafts_teaches_nothing():
    acceptance = Acceptance()
    for _ in range(9):
        acceptance.pass_round()
    acceptance.start_text()
    assert acceptance.texts.sum() == 0


def test_what_is_written_gives_the_same_start():
    acceptance = Acceptance()
    for kept in (0, 7, 5, 7):
        acceptance.record(7, kept)
    again = Acceptance.from_json(json.loads(json.dumps(acceptance.to_json())))
    acceptance.start_text()
    expected = acceptance.expected_tokens(12)
    assert again.expected_tokens(12) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"texts": [1.0]},
        {"texts": [float("nan")] * 12},
        {"kept": [-1.0], "expected": [1.0]},
        {"kept": [1.0], "expected": []},
        {"kept": "many"},
        {"kept": None},
    ],
)
def test_a_damaged_entry_is_an_error(change):
    with pytest.raises((ValueError, TypeError)):
        Acceptance.from_json(Acceptance().to_json() | change)


def test_the_gain_of_knowing():
    """Half the texts are easy: a share of plain decoding's time can be saved."""
    acceptance = Acceptance()
    acceptance.belief = (LEVELS == 0.02) * 0.5 + (LEVELS == 0.98) * 0.5
    tokens = sum(0.98**i for i in range(4))
    gain = acceptance.gain([1.2, 1.6, 2.0], 1.03)
    assert gain == pytest.approx(0.5 * (1 - 2.0 / tokens))
    assert acceptance.gain([2.0, 3.0, 4.0], 1.03) == 0.0
