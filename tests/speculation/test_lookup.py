"""Prompt lookup, compared with a search of the whole text."""

import random

import pytest

from dflash_mlx.speculation.lookup import CANDIDATES, LONGEST, NGRAM, Lookup
from dflash_mlx.token_array import TokenArray


def search(text, most, places=None):
    """What follows the longest match of the text's end, or the latest of several.

    Args:
        places: Most places that are compared, the latest ones.
    """
    best, length = None, NGRAM - 1
    found = range(len(text) - 1, NGRAM - 1, -1)
    if places:
        found = [at for at in found if text[at - NGRAM : at] == text[-NGRAM:]][:places]
    for place in found:
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


@pytest.mark.parametrize("seed", range(12))
def test_a_text_that_grows_and_is_cut_is_searched_as_it_is(seed, monkeypatch):
    """One copy of the text serves all answers of a conversation."""
    draw = random.Random(seed)
    words = draw.choice((2, 3, 5, 9))
    monkeypatch.setattr(TokenArray, "SLICE", draw.choice((64, 2**15)))
    text, tokens = [], TokenArray()
    for _ in range(60):
        keep = draw.choice((len(text), draw.randrange(len(text) + 1)))
        del text[keep:]
        tokens.cut(keep)
        text += [draw.randrange(words) for _ in range(draw.randrange(30))]
        lookup = Lookup(text, tokens)
        for _ in range(draw.randrange(6)):
            text += [draw.randrange(words) for _ in range(draw.randrange(3))]
            for most in (7, 2):
                found = lookup.find(most)
                wanted = search(text, most, CANDIDATES)
                if tokens.first == 0:
                    assert (found.tokens if found else None) == wanted
                elif found:  # only the end is copied so far
                    assert search(text, most) is not None
    assert tokens.copied.tolist() == text[tokens.first : tokens.end]


class Counting(list):
    """A list that counts the items that are read."""

    read = 0

    def __getitem__(self, at):
        found = list.__getitem__(self, at)
        self.read += len(found) if isinstance(at, slice) else 1
        return found


def test_a_search_copies_a_part_of_a_long_text_the_newest_tokens_first():
    """The first one is near the first token of an answer, which must not wait."""
    draw = random.Random(0)
    text = Counting(draw.randrange(1000) for _ in range(100_000))
    lookup, parts = Lookup(text), []
    for step, place in enumerate((99_000, 98_000, 97_000, 50, 60)):
        text += text[place : place + 3]
        text.read = 0
        assert lookup.find(3).tokens == text[place + 3 : place + 6]
        parts.append(text.read)
        if step == 2:  # what is not copied yet is not searched
            assert lookup.tokens.first > 0
    assert max(parts) < 2**15 + 500
    assert parts[4] < 500


def test_the_next_answer_of_a_conversation_copies_only_what_is_new():
    draw, tokens = random.Random(0), TokenArray()
    text = Counting(draw.randrange(1000) for _ in range(20_000))
    Lookup(text, tokens).find(3)
    del text[15_000:]
    tokens.cut(15_000)
    text += [draw.randrange(1000) for _ in range(50)] + text[700:703]
    text.read = 0
    assert Lookup(text, tokens).find(2).tokens == text[703:705]
    assert text.read < 500
