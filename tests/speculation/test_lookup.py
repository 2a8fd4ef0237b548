"""Prompt lookup, compared with a search of the whole text."""

import random

import pytest

from dflash_mlx.speculation.lookup import LONGEST, NGRAM, Lookup


def search(text, most):
    """What follows the longest match of the text's end, or the latest of several."""
    best, length = None, NGRAM - 1
    for place in range(len(text) - 1, NGRAM - 1, -1):
        same = 0
        while same < min(LONGEST, place) and text[place - same - 1] == text[-1 - same]:
            same += 1
        if same > length:
            best, length = place, same
    if best is None:
        return None
    period = len(text) - best
    return [text[best + i % period] for i in range(most)]


@pytest.mark.parametrize("seed", range(5))
def test_finds_what_a_full_search_finds(seed):
    draw = random.Random(seed)
    text, lookup = [], None
    for _ in range(40):
        if text and draw.random() < 0.5:
            start = draw.randrange(len(text))
            text += text[start : start + draw.randrange(1, 12)]
        else:
            text += [draw.randrange(50) for _ in range(draw.randrange(1, 6))]
        lookup = lookup or Lookup(text)
        found = lookup.find(7)
        assert (found.tokens if found else None) == search(text, 7)


def test_no_proposal_without_a_match():
    assert Lookup([]).find(4) is None
    assert Lookup([1, 2]).find(4) is None
    assert Lookup([1, 2, 3]).find(4) is None
    assert Lookup([1, 2, 3, 4, 5, 6]).find(4) is None
    assert Lookup([7, 7, 7, 7]).find(0) is None


def test_a_repeating_text_is_continued():
    text = [1, 2, 3, 4] * 3
    found = Lookup(text).find(6)
    assert found.tokens == [1, 2, 3, 4, 1, 2] and len(found.tokens) == 6
    assert Lookup([7] * 5).find(5).tokens == [7] * 5


def test_kinds_of_match_by_length():
    run = list(range(20))
    kinds = [
        Lookup([*run, 99, *run[20 - same :]]).find(4).kind for same in (3, 5, 6, 15, 16)
    ]
    assert kinds == ["short", "short", "long", "long", "whole"]


def test_the_latest_of_many_places_are_compared():
    text = [token for next in range(20) for token in (1, 2, 3, 50 + next)]
    assert Lookup([*text, 1, 2, 3]).find(1).tokens == [69]
    longer = [*text[:-8], 9, 1, 2, 3, 80, *text[-8:]]  # one place matches more tokens
    assert Lookup([*longer, 9, 1, 2, 3]).find(1).tokens == [80]
