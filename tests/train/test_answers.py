"""The data file, and the answers that a target writes."""

import json

import pytest

from dflash_mlx import load
from dflash_mlx.errors import DataError, OptionError
from dflash_mlx.train.answers import read_answers, read_conversations, write_answers


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"prompt": "a"}\nnonsense\n', "line 2 is not valid JSON"),
        ('{"prompt": "a"}\n\n{"promt": "b"}\n', "line 3 has neither"),
        ('{"messages": [{"role": "user"}]}\n', "line 1 has a message without"),
        ('{"messages": [{"role": "robot", "content": "x"}]}\n', "line 1 has a message"),
        ('{"messages": [{"role": "system", "content": "x"}]}\n', "no user message"),
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ("\n", "has no conversations"),
    ],
)
def test_errors_name_the_bad_line(tmp_path, lines, words):
    file = tmp_path / "data.jsonl"
    file.write_text(lines)
    with pytest.raises(DataError, match=words):
        read_conversations(file)


@pytest.mark.slow
def test_the_target_answers_and_an_incomplete_file_is_completed(tmp_path):
    pair, tokenizer = load("tiny", "none")
    file = tmp_path / "data.jsonl"
    chat = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "to be dropped"},
        {"role": "user", "content": "Thank you!"},
    ]
    rows = [{"prompt": "Who are you?"}, {"messages": chat}]
    file.write_text("\n".join(map(json.dumps, rows)))
    conversations = read_conversations(file)
    out = tmp_path / "answers.jsonl"
    done = write_answers(pair, tokenizer, conversations, out, max_tokens=80)
    first, second = done
    text = tokenizer.decode(first.ids[slice(*first.spans[0])])
    assert text.startswith("I am tiny") and text.endswith("<|im_end|>")
    assert len(second.spans) == 2
    assert "to be dropped" not in tokenizer.decode(second.ids)
    # An incomplete last line is written again.
    out.write_text(out.read_text()[:-9])
    with pytest.raises(OptionError, match="another model, other data or other options"):
        write_answers(pair, tokenizer, conversations, out, max_tokens=9)
    digest = json.loads(out.read_text().splitlines()[0])
    assert len(list(read_answers(out, digest))) == 1
    assert write_answers(pair, tokenizer, conversations, out, max_tokens=80) == done


@pytest.mark.slow
def test_an_answer_ends_with_the_token_that_the_target_chose(tmp_path):
    """The tokenizer's own end is another one, as Gemma's is."""
    pair, tokenizer = load("tiny", "none")
    assert tokenizer.eos_token_ids == {2}
    tokenizer._eos_token_ids = {0, 2}
    tokenizer._tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    assert tokenizer.eos_token_id == 0
    chat = [[{"role": "user", "content": "Who are you?"}]]
    (done,) = write_answers(pair, tokenizer, chat, tmp_path / "a", max_tokens=80)
    assert done.ids[-1] == 2 and 0 not in done.ids
    assert done.spans[-1][1] == len(done.ids)


def test_a_tokenizer_that_ends_nothing(tmp_path):
    pair, tokenizer = load("tiny", "none")
    tokenizer._eos_token_ids = set()
    with pytest.raises(OptionError, match="no token that ends an answer.*eos_token"):
        write_answers(pair, tokenizer, [], tmp_path / "a")
