"""A tokenizer's tokens as llguidance reads them."""

from concurrent.futures import ThreadPoolExecutor

from mlx_lm.tokenizer_utils import TokenizerWrapper

from dflash_mlx.text import vocabulary
from dflash_mlx.text.grammar import Grammar
from dflash_mlx.text.vocabulary import Vocabulary
from tests.equipment.grammars import encode, tiny_tokenizer


def test_a_vocabulary_is_built_once(monkeypatch):
    built, stock = [], vocabulary.LLTokenizer

    def build(*arguments, **more):
        built.append(more)
        return stock(*arguments, **more)

    monkeypatch.setattr(vocabulary, "LLTokenizer", build)
    tokenizer = TokenizerWrapper(tiny_tokenizer()._tokenizer)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(Vocabulary.of, [tokenizer] * 8))
    assert len(found) == len(built) == 1
    tokenizer.add_eos_token("<|endoftext|>")
    assert Vocabulary.of(tokenizer).eos == {0, 2} and len(built) == 2
    assert Vocabulary.of(tokenizer).end == 2


def test_tokens_by_their_text():
    known = Vocabulary.of(tiny_tokenizer())
    assert len(known) == len(known.texts) == 512
    assert known.text(1) == b"<|im_start|>" and known.text(9999) == b""
    assert known.token_of("<|im_start|>") == 1 and known.token_of("ab") is None
    (token,) = encode("Compute")
    assert token in known.longer_than(b"Comp") and token in known.holding(b"put")
    assert token not in known.longer_than(b"Compute")
    assert all(known.texts[i].startswith(b"Comp") for i in known.longer_than(b"Comp"))


def test_a_grammar_may_be_used_in_other_threads_than_its_own():
    grammar = Grammar.of_regex(tiny_tokenizer(), "[0-9]{3}").after(":")
    tokens = [*encode("ab:123"), 2]

    def follow(_):
        matcher = grammar.start()
        for token in tokens:
            assert matcher.walk([token], 512).legal == 1
            matcher.accept([token])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(follow, range(40)))
