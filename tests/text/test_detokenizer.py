"""Text token by token: equal to what the tokenizer decodes behind the prompt."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dflash_mlx import load
from dflash_mlx.text.detokenizer import Detokenizer


def make_tokenizer(words, decoder, **options):
    """A tokenizer of whole words, with one of the kinds of decoders."""
    vocab = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token=words[0]))
    inner.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, **options)


BYTES = [f"<0x{byte:02X}>" for byte in "é語".encode()]
SENTENCEPIECE = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)
TOKENIZERS = {
    "byte level": make_tokenizer(
        ["Hello", "Ġthere", "Ġ", "ĊĠ", "Ċ", "Ã", "©", ".", "Ġ."], decoders.ByteLevel()
    ),
    "metaspace": make_tokenizer(
        ["▁Hello", "there", "▁", "▁▁", "\n", "\n▁x", ".", "▁."], decoders.Metaspace()
    ),
    "sentencepiece": make_tokenizer(
        ["▁Hello", "there", "▁", "▁▁", "\n", ".", *BYTES], SENTENCEPIECE
    ),
    "word piece": make_tokenizer(
        ["hello", "##there", "x", "."], decoders.WordPiece(cleanup=False)
    ),
    "cleaned up": make_tokenizer(
        ["Hello", "Ġ", "Ġ.", ".", "Ġthere", ",", "Ġn", "'t", "Ġ'", "s"],
        decoders.ByteLevel(),
        clean_up_tokenization_spaces=True,
    ),
    "ids with gaps": PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(
            models.WordLevel({"a": 0, "b": 3, " c": 7}, unk_token="a")
        )
    ),
}

# Tokens that make whole characters and words, where others do not count.
UNITS = {
    "byte level": [[0], [1], [2], [3], [4], [5, 6], [7], [8]],
    "sentencepiece": [[0], [1], [2], [3], [4], [5], [6, 7], [8, 9, 10]],
    "cleaned up": [[0], [1], [2], [3], [4], [5]],
}


def stream(tokenizer, prompt, answer):
    """The text of an answer that comes token by token."""
    detokenizer, text = Detokenizer(tokenizer, prompt), ""
    for token in answer:
        detokenizer.add_token(token)
        text += detokenizer.last_segment
    detokenizer.finalize()
    return text + detokenizer.last_segment


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_text_is_what_the_tokenizer_decodes_behind_the_prompt(kind):
    tokenizer, rng = TOKENIZERS[kind], random.Random(kind)
    units = UNITS.get(kind) or [[token] for token in range(len(tokenizer))]
    for _ in range(150):
        prompt, answer = (
            [token for unit in rng.choices(units, k=rng.randrange(n)) for token in unit]
            for n in (6, 25)
        )
        before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + answer)
        if not whole.startswith(before):
            continue  # the answer changes the prompt's own text
        assert stream(tokenizer, prompt, answer) == whole[len(before) :]


def test_the_kinds_of_spaces():
    level, space = TOKENIZERS["byte level"], TOKENIZERS["metaspace"]
    assert stream(level, [0], [1, 1]) == " there there"
    assert stream(level, [], [0, 1, 3, 1]) == "Hello there\n  there"
    assert stream(space, [1], [4, 0]) == "\n Hello"
    assert stream(TOKENIZERS["sentencepiece"], [1], [0, 4, 0]) == " Hello\n Hello"
    assert stream(TOKENIZERS["cleaned up"], [0], [6, 7, 8, 9, 1, 3]) == "n't's."


def test_a_character_that_the_prompt_begins():
    assert stream(TOKENIZERS["byte level"], [0, 5], [6, 1]) == "é there"


def test_text_is_returned_as_soon_as_it_is_certain():
    detokenizer = Detokenizer(TOKENIZERS["byte level"], [0])
    for token, segment in ((1, " there"), (5, ""), (6, "é"), (2, " "), (7, ".")):
        detokenizer.add_token(token)
        assert detokenizer.last_segment == segment


def test_ids_that_the_tokenizer_lacks():
    tokenizer = load("tiny")[1]
    wanted = tokenizer.decode([70, 71])
    assert stream(tokenizer, [70], [71, 99999, 600, 2**31]) == wanted[1:]
    assert stream(TOKENIZERS["ids with gaps"], [], [0, 1, 5, 3, 99, 7]).split() == [
        "a",
        "b",
        "c",
    ]


def test_bytes_that_are_no_character_do_not_wait_for_ever():
    detokenizer = Detokenizer(TOKENIZERS["byte level"])
    shown = 0
    for _ in range(100):
        detokenizer.add_token(5)
        shown += len(detokenizer.last_segment)
    assert shown > 50


def test_tokens_that_come_again_are_decoded_once_each(monkeypatch):
    """Two calls of a tokenizer per token were the largest part of a round's Python."""
    tokenizer, calls = TOKENIZERS["byte level"], []
    decode = tokenizer.decode
    counted = lambda ids: calls.append(ids) or decode(ids)  # noqa: E731
    monkeypatch.setattr(tokenizer, "decode", counted)
    detokenizer, answer = Detokenizer(tokenizer, [0]), [1, 7, 8, 0] * 20
    calls.clear()
    text = ""
    for token in answer:
        detokenizer.add_token(token)
        text += detokenizer.last_segment
    assert text == decode([0, *answer])[len(decode([0])) :]
    assert len(calls) == len(answer) + 4
