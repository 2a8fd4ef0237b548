"""Where a grammar begins: markers in one token, in several, and inside tokens."""

import pytest

from dflash_mlx.errors import GrammarError
from dflash_mlx.text.grammar import Grammar
from tests.equipment.grammars import encode, tiny_tokenizer


def begins(pattern, markers, tokens):
    """The number of tokens behind which masks are on; None if never."""
    matcher = Grammar.of_regex(tiny_tokenizer(), pattern).after(*markers).start()
    for i, token in enumerate(tokens):
        matcher.walk([], 512)
        matcher.accept([token])
        if matcher.active:
            return i + 1
    return None


def pieces(*texts):
    return [token for text in texts for token in encode(text)]


@pytest.mark.parametrize(
    ("markers", "tokens", "wanted"),
    [
        (["</think>"], pieces("ab</think>1"), 8),
        (["</think>"], pieces("ab</thi</think>1"), 12),
        (["</think>"], pieces("ab</thin>1"), None),
        (["<|im_start|>"], [5, 1, 5], 2),  # one special token
        (["<|im_start|>:"], [5, 1, *encode(":")], 3),
        (["aab"], pieces("a", "a", "a", "b"), 4),
        (["abab", "bb"], pieces("a", "b", "b"), 3),
        (["x", "y"], pieces("a", "y", "x"), 2),
        (["put"], pieces("a", "Compu", "t"), 3),
        (["\u00e4"], encode("a\u00e4"), 3),  # the bytes of one character
    ],
)
def test_a_grammar_begins_behind_a_marker(markers, tokens, wanted):
    assert begins("[0-9]+", markers, tokens) == wanted


def test_the_rest_of_a_token_belongs_to_the_grammar():
    assert len(encode("Compute")) == 1
    matcher = Grammar.of_regex(tiny_tokenizer(), "e[0-9]").after("put").start()
    tokens = [*encode("Compute"), *encode("7"), 2]
    assert matcher.walk(tokens, 512).legal == 3
    assert matcher.walk(encode("Compute e"), 512).legal == 1


def test_a_token_whose_rest_does_not_fit_may_not_end_a_marker():
    matcher = Grammar.of_regex(tiny_tokenizer(), "[0-9]").after("put").start()
    assert matcher.walk(encode("Compute"), 512).legal == 0
    assert matcher.walk(pieces("Compu", "t", "7"), 512).legal == 3
    matcher.walk([], 512)
    with pytest.raises(GrammarError, match="chose the token"):
        matcher.accept(encode("Compute"))


def test_white_space_behind_a_marker_is_skipped_where_it_does_not_fit():
    lines = encode("\n\n")
    assert len(lines) == 1
    digits = Grammar.of_regex(tiny_tokenizer(), "[0-9]").after("\n").start()
    assert digits.walk([*lines, *encode("7")], 512).legal == 2
    space = Grammar.of_regex(tiny_tokenizer(), "\n[0-9]").after("\n").start()
    assert space.walk([*lines, *encode("7")], 512).legal == 2
    assert space.walk([*lines, *lines], 512).legal == 1


def test_masks_are_off_before_the_marker():
    matcher = Grammar.of_regex(tiny_tokenizer(), "[0-9]").after("</think>").start()
    assert matcher.walk(encode("any text"), 512).masks is None
    walk = matcher.walk(encode("ab</think>7"), 512)
    assert walk.legal == 9 and (walk.masks[:8, 0] != walk.masks[8, 0]).all()
    assert matcher.walk([2], 512).legal == 1  # the answer may end without a marker
