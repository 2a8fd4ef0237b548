"""Prompt lookup against a search of the whole text."""

import random

import pytest

from dflash_mlx.speculation.lookup import LONGEST, RUN, Lookup


def search(text, most):
    """The longest match of the text's end, the latest of several, by brute force."""
    best, length = None, RUN - 1
    for place in range(len(text) - 1, RUN - 1, -1):
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
def test_finds_what_a_search_of_everything_finds(seed):
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


def test_nothing_to_say():
    assert Lookup([]).find(4) is None
    assert Lookup([1, 2]).find(4) is None
    assert Lookup([1, 2, 3]).find(4) is None
    assert Lookup([1, 2, 3, 4, 5, 6]).find(4) is None
    assert Lookup([7, 7, 7, 7]).find(0) is None


def test_a_loop_proposes_itself():
    text = [1, 2, 3, 4] * 3
    found = Lookup(text).find(6)
    assert found.tokens == [1, 2, 3, 4, 1, 2] and found.drafts == 6
    assert Lookup([7] * 5).find(5).tokens == [7] * 5


def test_longer_matches_are_of_another_kind():
    run = list(range(20))
    kinds = [
        Lookup([*run, 99, *run[20 - same :]]).find(4).kind for same in (3, 5, 6, 15, 16)
    ]
    assert kinds == ["short", "short", "long", "long", "whole"]


def test_of_many_places_the_latest_are_compared():
    text = [token for next in range(20) for token in (1, 2, 3, 50 + next)]
    assert Lookup([*text, 1, 2, 3]).find(1).tokens == [69]
    longer = [*text[:-8], 9, 1, 2, 3, 80, *text[-8:]]  # one of them matches better
    assert Lookup([*longer, 9, 1, 2, 3]).find(1).tokens == [80]
