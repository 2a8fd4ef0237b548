"""generate: where its prompt comes from, its cache file, what a program reads."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from dflash_mlx import Pair, load
from dflash_mlx.errors import (
    DFlashError,
    MissingFilesError,
    OptionError,
    PromptError,
)
from dflash_mlx.terminal import generate
from dflash_mlx.terminal.answer_options import (
    AnswerOptions,
    PromptOptions,
    SamplingOptions,
    Shorthand,
    ThinkingOptions,
)
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.stdin import piped, read_prompt
from dflash_mlx.types import Sampling
from tests.equipment import architectures
from tests.equipment.turns import LETTERS, TEMPLATES, make_tokenizer

QUESTION = "Write the 7 times table up to 5."
PROGRAM = [sys.executable, "-m", "dflash_mlx", "generate"]


class Typed(io.StringIO):
    """Stdin that is a terminal; reading would wait for somebody."""

    def isatty(self):
        return True

    def read(self, *_):
        raise AssertionError("waited at a terminal")


@pytest.mark.parametrize(
    ("words", "option", "stdin", "prompt"),
    [
        (["Hello!"], None, "", "Hello!"),
        (["What", "is", "this?"], None, "", "What is this?"),
        ([], None, "notes\n", "notes\n"),
        (["-"], None, "notes\n", "notes\n"),
        ([], "-", "notes\n", "notes\n"),
        (["What is this?"], None, "notes\n", "notes\n\nWhat is this?"),
        ([], "What is this?", "notes\n", "notes\n\nWhat is this?"),
        (["-", "What?"], None, "notes\n", "notes\n\nWhat?"),
        (["-"], "What?", "notes\n", "notes\n\nWhat?"),
        (["Sum up:", "-"], None, "notes\n", "Sum up:\n\nnotes"),
        (
            ["Sum up:", "-", "Be", "brief."],
            None,
            "a\nb",
            "Sum up:\n\na\nb\n\nBe brief.",
        ),
        (["two\\nlines"], None, "", "two\nlines"),
        (["a"], None, "not\\nchanged", "not\\nchanged\n\na"),
    ],
)
def test_the_prompt_is_what_is_written_and_piped(
    words, option, stdin, prompt, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    assert read_prompt(words, option) == prompt


@pytest.mark.parametrize(
    ("words", "option", "error", "hint"),
    [
        ([], None, PromptError, "There is no prompt"),
        (["-"], None, PromptError, "Nothing is piped"),
        (["-", "What?"], None, PromptError, "Nothing is piped"),
        (["x"], "y", OptionError, "given twice"),
        (["-", "-"], None, OptionError, "piped text twice"),
        ([" "], None, PromptError, "empty"),
    ],
)
def test_a_terminal_is_never_waited_for(words, option, error, hint, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Typed())
    with pytest.raises(error, match=hint):
        read_prompt(words, option)


def test_stdin_that_is_closed_or_no_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompt(["Hello!"], None) == "Hello!"
    with pytest.raises(PromptError, match="no prompt"):
        read_prompt([], None)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert not piped()


def test_a_real_terminal_gets_an_answer_or_an_error():
    for arguments, words, code in (
        (["What is 12 + 34?", "-m", "40"], "46", 0),
        ([], "There is no prompt", 2),
        (["-"], "Nothing is piped", 2),
    ):
        child = pexpect.spawn(PROGRAM[0], [*PROGRAM[1:], *arguments], timeout=30)
        told = child.read().decode()
        child.close()
        assert words in told and child.exitstatus == code, told


def test_piped_text_and_a_question_reach_the_model():
    def tokens(*arguments, stdin=""):
        run = subprocess.run(
            [*PROGRAM, *arguments, "--json", "-m", "2"],
            input=stdin,
            capture_output=True,
            text=True,
        )
        return json.loads(run.stdout)["prompt_tokens"]

    joined = tokens("12 + 34\n\nWhat is this?")
    assert tokens("What is this?", stdin="12 + 34\n") == joined
    assert tokens("-p", "What is this?", stdin="12 + 34\n") == joined
    assert tokens("What is this?") < joined


JSON = {
    "text": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "prompt_tps": float,
    "generation_tokens": int,
    "generation_tps": float,
    "peak_memory": float,
    "engine": str,
    "reason": str,
    "rounds": int,
    "drafted": int,
    "accepted": int,
    "tokens_per_round": float,
    "acceptance": list,
    "parked_rounds": int,
    "lookup_rounds": int,
    "lookup_accepted": int,
    "speedup": float,
    "cached_tokens": int,
    "kernels": list,
    "time_to_first_token": float,
    "seconds_by_width": dict,
}


def test_the_names_in_json_are_stable():
    run = subprocess.run(
        [*PROGRAM, QUESTION, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    told = json.loads(run.stdout)
    assert run.stdout.count("\n") == 1 and told.keys() == JSON.keys()
    for name, kind in JSON.items():
        assert isinstance(told[name], kind | None), (name, told[name])


def test_ctrl_c_leaves_json_whole(monkeypatch, capsys):
    whole = AnswerRequest.stream

    def stopped(*arguments):
        for count, response in enumerate(whole(*arguments)):
            if count == 5:
                raise KeyboardInterrupt
            yield response

    monkeypatch.setattr(AnswerRequest, "stream", stopped)
    with pytest.raises(KeyboardInterrupt):
        told(capsys, None)
    out = json.loads(capsys.readouterr().out)
    assert out["finish_reason"] == "interrupted" and out["generation_tokens"] == 5


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_leaves_ends_it_quietly(more):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        run = subprocess.run(
            [*PROGRAM, QUESTION, *more],
            stdin=subprocess.DEVNULL,
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 141 and run.stderr == ""


def of(short=None, **fields):
    return AnswerRequest.of(
        AnswerOptions(**fields), SamplingOptions(), short or Shorthand()
    )


def test_other_ways_to_say_it():
    assert of().block_size is None and of().kernels == "auto"
    assert of(Shorthand(num_draft_tokens=3)).block_size == 4
    assert of(Shorthand(num_draft_tokens=0)).block_size == 1
    assert of(Shorthand(exact=True)).kernels == "exact"
    for short, fields in (
        (Shorthand(num_draft_tokens=3), {"block_size": 4}),
        (Shorthand(num_draft_tokens=3), {"plain": True}),
        (Shorthand(num_draft_tokens=-1), {}),
        (Shorthand(exact=True), {"kernels": "off"}),
    ):
        with pytest.raises(OptionError):
            of(short, **fields)
    with pytest.raises(OptionError, match="exclude"):
        PromptOptions(ignore_chat_template=True, use_default_chat_template=True)


def test_sampling_options_are_those_of_sampling():
    assert SamplingOptions().sampling() == Sampling()
    told = SamplingOptions(
        temp=0.7, top_k=5, presence_penalty=0.5, logit_bias='{"4":1}'
    )
    wanted = Sampling(temp=0.7, top_k=5, presence_penalty=0.5, logit_bias={4: 1.0})
    assert told.sampling() == wanted


def told(capsys, file, question=QUESTION, **options):
    """The JSON of one call in this process, with a cache file."""
    how = PromptOptions(prompt_cache_file=file, **options)
    generate.run(of(max_tokens=40), question, how, ThinkingOptions(), as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_cache_file_is_made_once_then_read(tmp_path, capsys):
    file = tmp_path / "talk.safetensors"
    first = told(capsys, file)
    assert first["cached_tokens"] == 0
    made = file.stat().st_mtime_ns
    again = told(capsys, file)
    assert again["text"] == first["text"] and again["cached_tokens"] > 0
    other = told(capsys, file, "Write the 9 times table up to 5.")
    assert (
        other["text"] == told(capsys, None, "Write the 9 times table up to 5.")["text"]
    )
    assert 0 < other["cached_tokens"] < first["prompt_tokens"]
    assert file.stat().st_mtime_ns == made


@pytest.mark.parametrize("options", ({}, {"ignore_chat_template": True}))
@pytest.mark.parametrize("family", ("qwen3", "qwen3_next", "gemma3_text"))
def test_a_second_question_about_the_same_text(
    family, options, tmp_path, capsys, monkeypatch
):
    """Layers that cannot be cut back go to a snapshot at the end of the text."""
    pair = Pair.of(architectures.build(family))
    monkeypatch.setattr(
        AnswerRequest, "open", lambda *_: (pair, make_tokenizer(TEMPLATES["thinking"]))
    )
    text = "".join(random.Random(family).choices(LETTERS, k=150)) + "\n\n"
    file = tmp_path / "text"
    for rank, question in enumerate(("Who?", "When and where?", "A?")):
        again, fresh = (
            told(capsys, path, text + question, **options) for path in (file, None)
        )
        assert again["text"] == fresh["text"] and fresh["cached_tokens"] == 0
        assert again["cached_tokens"] >= (150 if rank else 0)


def test_cache_files_that_cannot_be(tmp_path, capsys):
    with pytest.raises(MissingFilesError, match="no folder"):
        told(capsys, tmp_path / "none" / "talk")
    (tmp_path / "broken").write_text("x")
    with pytest.raises(DFlashError, match="broken"):
        told(capsys, tmp_path / "broken")


def test_a_cache_file_is_tried_before_anything_is_answered(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(AnswerRequest, "open", pytest.fail)
    with pytest.raises(MissingFilesError, match="File name too long"):
        told(capsys, tmp_path / ("x" * 300))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MissingFilesError, match="cannot be written to"):
        told(capsys, tmp_path / "new")


@pytest.mark.parametrize("damage", (lambda whole: whole[:-5], lambda whole: b""))
def test_a_damaged_cache_file_that_cannot_be_moved_stays(
    tmp_path, capsys, monkeypatch, damage
):
    file = tmp_path / "talk"
    first = told(capsys, file)
    file.write_bytes(left := damage(file.read_bytes()))

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", closed)
    how = PromptOptions(prompt_cache_file=file)
    generate.run(of(max_tokens=40), QUESTION, how, ThinkingOptions(), as_json=True)
    again = capsys.readouterr()
    assert json.loads(again.out)["text"] == first["text"]
    assert "It stays: Permission denied." in again.err
    assert file.read_bytes() == left


@pytest.mark.parametrize(
    ("answering", "how", "thinking", "word"),
    [
        ({"system_prompt": "Be brief."}, {}, {}, "--system-prompt"),
        ({"chat_template_config": "{}"}, {}, {}, "--chat-template-config"),
        ({}, {"prefill_response": "1"}, {}, "--prefill-response"),
        ({}, {}, {"thinking": "off"}, "--thinking"),
        ({}, {}, {"reasoning_effort": "low"}, "--reasoning-effort"),
    ],
)
def test_what_is_for_a_template_is_refused_without_one(
    answering, how, thinking, word, monkeypatch
):
    asked, thought = of(**answering), ThinkingOptions(**thinking)
    raw = PromptOptions(ignore_chat_template=True, **how)
    with pytest.raises(OptionError, match=f"--ignore-chat-template and {word}"):
        generate.run(asked, "Hi", raw, thought)
    pair, tokenizer = load("tiny")
    tokenizer.has_chat_template = False
    monkeypatch.setattr(AnswerRequest, "open", lambda *_: (pair, tokenizer))
    with pytest.raises(OptionError, match=f"no chat template, which {word} is for"):
        generate.run(asked, "Hi", PromptOptions(**how), thought)


@pytest.mark.parametrize(
    "fields",
    [
        {"kv_group_size": 32},
        {"quantized_kv_start": 0},
        {"plain": True, "draft_window": 8},
        {"plain": True, "draft_quantize": 4},
    ],
)
def test_options_that_would_do_nothing_are_refused(fields):
    with pytest.raises(OptionError):
        of(**fields)


@pytest.mark.parametrize("name", ("messages", "add_generation_prompt", "tokenize"))
def test_arguments_that_are_ours_are_no_template_options(name):
    with pytest.raises(OptionError, match=f"cannot set {name}"):
        of(chat_template_config=json.dumps({name: 1})).template()
    with pytest.raises(OptionError, match="must be a JSON object"):
        of(chat_template_config="[" * 100_000).template()


def test_a_damaged_cache_file_is_set_aside(tmp_path, capsys):
    file = tmp_path / "talk"
    first = told(capsys, file)
    whole = file.read_bytes()
    for n in ("", "-2"):
        file.write_bytes(whole[:-5])
        again = told(capsys, file)
        assert again["text"] == first["text"] and again["cached_tokens"] == 0
        assert (tmp_path / f"talk.broken{n}").read_bytes() == whole[:-5]
        assert told(capsys, file)["cached_tokens"] > 0


def test_thinking_reaches_the_template():
    _, tokenizer = load("tiny", "none")
    asked = generate.thought(ThinkingOptions())
    assert asked.template(tokenizer) == {}
    with pytest.raises(OptionError, match="no thinking switch"):
        generate.thought(ThinkingOptions("off")).template(tokenizer)
    tokenizer.chat_template = "{% if enable_thinking %}<think>{% endif %}{{ messages }}"
    asked = generate.thought(ThinkingOptions("off"))
    assert asked.template(tokenizer) == {"enable_thinking": False}
