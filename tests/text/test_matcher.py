"""Masks along a block's drafts, and a matcher that keeps its place."""

import random

import numpy as np
import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dflash_mlx.errors import GrammarError
from dflash_mlx.text.grammar import Grammar
from tests.equipment.grammars import encode, random_root, tiny_tokenizer

EOS = 2
DIGITS = encode("0123456789")


def grammar(pattern):
    return Grammar.of_regex(tiny_tokenizer(), pattern)


def bits(row):
    """The tokens that a mask allows."""
    return np.unpackbits(row.view(np.uint8), bitorder="little").nonzero()[0].tolist()


def test_each_row_has_the_mask_behind_the_drafts_before_it():
    walk = grammar("[0-9]{2}x").start().walk(encode("12x"), 512)
    assert walk.legal == 3
    assert [bits(row) for row in walk.masks] == [DIGITS, DIGITS, encode("x"), [EOS]]


@pytest.mark.parametrize("at", range(5))
def test_the_first_illegal_draft_ends_a_walk(at):
    drafts = encode("12345")
    drafts[at] = encode("x")[0]
    matcher = grammar("[0-9]{5}").start()
    walk = matcher.walk(drafts, 512)
    assert walk.legal == at and len(walk.masks) == at + 1
    assert matcher.walk(encode("12345"), 512).legal == 5  # its place is kept


def test_drafts_behind_the_end_are_illegal():
    matcher = grammar("[0-9]{1,2}").start()
    assert matcher.walk([*encode("1"), EOS, *encode("2")], 512).legal == 2
    assert matcher.walk([*encode("12"), EOS, EOS], 512).legal == 3
    assert matcher.walk([EOS], 512).legal == 0
    walk = matcher.walk([*encode("1"), EOS], 512)
    assert len(walk.masks) == 3  # the last row's choice is not used


@pytest.mark.parametrize("width", (20, 300, 511, 512, 513, 545, 1000))
def test_masks_are_as_wide_as_the_logits(width):
    walk = grammar("[0-9]|Compute").start().walk([], width)
    wanted = [*DIGITS, *encode("C"), *encode("Compute")]
    found = bits(walk.masks[0])
    assert walk.masks.shape[1] == (width + 31) // 32 and max(found) < width
    assert {i for i in wanted if i < width} <= set(found)
    free = grammar("a").after("x").start()
    assert free.walk([width - 1], width).legal == 1
    assert free.walk([width], width).legal == 0


def test_a_matcher_of_random_schemas_follows_any_split_of_the_walk():
    """Walks, rejected drafts and commits in any order give the same masks."""
    for seed in range(10):
        draw = random.Random(seed)
        grammar = Grammar.of_json_schema(tiny_tokenizer(), random_root(draw))
        one, other = grammar.start(), grammar.start()
        for _ in range(40):
            row = one.walk([], 512).masks
            token = draw.choice(bits(row[0]))
            guesses = [token, *(draw.randrange(512) for _ in range(3))]
            for drafts in (guesses, guesses[1:]):
                assert (other.walk(drafts, 512).masks[0] == row[0]).all()
            one.walk([], 512)
            one.accept([token])
            other.walk(guesses[: draw.randrange(5)], 512)
            other.accept([token])
            if token == EOS:
                break


def test_tokens_that_no_row_allows_are_refused():
    matcher = grammar("[0-9]{3}").start()
    matcher.walk([], 512)
    with pytest.raises(GrammarError, match="chose the token 68, which"):
        matcher.accept(encode("a"))
    matcher.walk([], 512)
    with pytest.raises(GrammarError, match="chose the token 2, which"):
        matcher.accept([EOS])


def test_forced_tokens_end_with_the_end_of_the_answer():
    matcher = grammar("The product is [0-9] and so on").start()
    first = matcher.forced()
    assert first == encode("The product is ")
    assert matcher.walk(first, 512).legal == len(first)
    matcher.accept(first)
    assert matcher.forced() == []
    matcher.walk(encode("7"), 512)
    matcher.accept(encode("7"))
    assert matcher.forced() == [*encode(" and so on"), EOS]
    assert matcher.forced() == matcher.forced()
    assert grammar("ab").after("x").start().forced() == []


def test_an_end_that_is_text_is_legal_only_where_the_answer_may_end():
    """As a line break is, where the caller adds it to the ends."""
    tokenizer = TokenizerWrapper(tiny_tokenizer()._tokenizer)
    (line,) = encode("\n")
    tokenizer.add_eos_token(str(line))
    json = Grammar.of_json_schema(tokenizer, {"type": "array", "maxItems": 0})
    assert line not in bits(json.start().walk(encode("["), 512).masks[1])
    walk = json.start().walk([*encode("[]")], 512)
    assert bits(walk.masks[-1]) == sorted([EOS, line])


def words_tokenizer(words):
    """A tokenizer that knows some words only, so that a grammar may lead nowhere."""
    vocabulary = {word: i for i, word in enumerate((*words, "<end>"))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    return TokenizerWrapper(fast)


def test_a_draft_that_leads_nowhere_is_dropped():
    tokenizer = words_tokenizer(("a", "b", "d"))
    matcher = Grammar.of_regex(tokenizer, "da(c|db)|b").start()
    walk = matcher.walk([2, 0, 2, 1], 4)
    assert walk.legal == 4
    matcher = Grammar.of_regex(tokenizer, "d(ac|b)|b").start()
    walk = matcher.walk([2, 0], 4)
    assert walk.legal == 1 and bits(walk.masks[1]) == [0, 1]
    matcher.accept([2])
    assert matcher.walk([1], 4).legal == 1  # the matcher has not failed
    matcher.accept([0])  # the target's own choice
    with pytest.raises(GrammarError, match="allows no token of this model"):
        matcher.walk([], 4)
    with pytest.raises(GrammarError, match="expression allows no token"):
        Grammar.of_regex(tokenizer, "c")


def test_an_answer_may_begin_with_the_opening_of_reasoning_or_with_the_grammar():
    optional = grammar("[0-9]{2}").after("</think>", opening="<|im_start|>")
    matcher = optional.start()
    assert matcher.active and bits(matcher.walk([], 512).masks[0]) == [1, *DIGITS]
    assert matcher.forced() == []
    assert matcher.walk([*encode("12"), EOS], 512).legal == 3
    thought = [1, *encode("so</think>")]
    assert matcher.walk([*thought, *encode("12"), EOS], 512).legal == len(thought) + 3
    assert matcher.walk([*thought, 1], 512).legal == len(thought)
    assert matcher.walk([*encode("1"), 1], 512).legal == 1
    matcher.walk([], 512)
    matcher.accept([1])
    assert not matcher.active and matcher.walk(encode("so"), 512).masks is None
    other = optional.start()
    other.walk([], 512)
    other.accept(encode("1"))
    assert bits(other.walk([], 512).masks[0]) == DIGITS
    with pytest.raises(GrammarError, match="'ab<' is not one token"):
        grammar("a").after("x", opening="ab<")
