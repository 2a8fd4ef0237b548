"""generate: its cache file, its JSON, and options that need a chat template."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_mlx import Pair, load
from dflash_mlx.cache.file import load as load_cache
from dflash_mlx.errors import (
    CacheFileError,
    DFlashError,
    MissingFilesError,
    OptionError,
)
from dflash_mlx.terminal import generate
from dflash_mlx.terminal.answer_options import (
    PromptOptions,
    SamplingOptions,
    ThinkingOptions,
)
from dflash_mlx.terminal.answer_request import AnswerRequest
from tests.equipment import architectures
from tests.equipment.folders import change_json, copy_tiny
from tests.equipment.full import thinned
from tests.equipment.program import program
from tests.equipment.turns import LETTERS, TEMPLATES, make_tokenizer
from tests.terminal.test_answer_request import request_of

QUESTION = "Write the 7 times table up to 5."
PROGRAM = [sys.executable, "-m", "dflash_mlx", "generate"]
JSON = {
    "text": str,
    "finish_reason": str,
    "model": str,
    "drafter": str,
    "seed": int,
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


@pytest.mark.slow
def test_the_names_in_json_are_stable():
    run = subprocess.run(
        [*PROGRAM, QUESTION, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    report = json.loads(run.stdout)
    assert run.stdout.count("\n") == 1 and report.keys() == JSON.keys()
    for name, kind in JSON.items():
        assert isinstance(report[name], kind | None), (name, report[name])


def test_ctrl_c_leaves_valid_json(monkeypatch, capsys):
    stream = AnswerRequest.stream

    def interrupted(*arguments):
        for count, response in enumerate(stream(*arguments)):
            if count == 5:
                raise KeyboardInterrupt
            yield response

    monkeypatch.setattr(AnswerRequest, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_json(capsys, None)
    out = json.loads(capsys.readouterr().out)
    assert out["finish_reason"] == "interrupted" and out["generation_tokens"] == 5


def run_json(capsys, file, question=QUESTION, **options):
    """Run generate in this process with a cache file, and return its JSON."""
    request = request_of(max_tokens=40)
    prompt = PromptOptions(prompt_cache_file=file, **options)
    generate.run(request, question, prompt, ThinkingOptions(), as_json=True)
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_cache_file_is_written_once_then_read(tmp_path, capsys):
    file = tmp_path / "talk.safetensors"
    first = run_json(capsys, file)
    assert first["cached_tokens"] == 0
    written = file.stat().st_mtime_ns
    again = run_json(capsys, file)
    assert again["text"] == first["text"] and again["cached_tokens"] > 0
    other = run_json(capsys, file, "Write the 9 times table up to 5.")
    assert (
        other["text"]
        == run_json(capsys, None, "Write the 9 times table up to 5.")["text"]
    )
    assert 0 < other["cached_tokens"] < first["prompt_tokens"]
    assert file.stat().st_mtime_ns == written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "raw"),
    thinned(("qwen3", "qwen3_next", "gemma3_text"), (False, True), "chat", 2),
)
def test_a_second_question_about_the_same_text(
    family, raw, tmp_path, capsys, monkeypatch
):
    """A cache that cannot be trimmed keeps a snapshot at the end of the text."""
    pair = Pair.of(architectures.build(family))
    monkeypatch.setattr(
        AnswerRequest, "load", lambda *_: (pair, make_tokenizer(TEMPLATES["thinking"]))
    )
    options = {"ignore_chat_template": True} if raw else {}
    text = "".join(random.Random(family).choices(LETTERS, k=150)) + "\n\n"
    file = tmp_path / "text"
    for rank, question in enumerate(("Who?", "When and where?", "A?")):
        again, fresh = (
            run_json(capsys, path, text + question, **options) for path in (file, None)
        )
        assert again["text"] == fresh["text"] and fresh["cached_tokens"] == 0
        assert again["cached_tokens"] >= (150 if rank else 0)


@pytest.mark.slow
def test_a_cache_that_does_not_fit_the_prompt_is_reported(tmp_path, capsys):
    file = tmp_path / "text"
    question = "What is 12 + 34?"
    run_json(capsys, file, "one two three " * 30 + "\n\n" + question)
    request, prompt = request_of(max_tokens=5), PromptOptions(prompt_cache_file=file)
    generate.run(request, question, prompt, ThinkingOptions())
    errors = capsys.readouterr().err
    assert re.search(r"^\d+ of \d+ cached tokens match this prompt: ", errors)
    assert "pipe the same text first" in errors
    text = "one two three " * 30 + "\n\nWhat is 1 + 2?"
    generate.run(request, text, prompt, ThinkingOptions())
    errors = capsys.readouterr().err
    assert "match this prompt" not in errors
    found = re.search(r"^Cache: (\d+) of (\d+) prompt tokens$", errors, re.M)
    cached, whole = found.groups()
    assert int(whole) > int(cached) > 100


def test_what_ended_an_answer_and_its_seed_are_printed(capsys):
    prompt, thinking = PromptOptions(), ThinkingOptions()
    generate.run(request_of(max_tokens=3), QUESTION, prompt, thinking)
    errors = capsys.readouterr().err
    assert "The answer was cut off at --max-tokens (3)." in errors
    assert "Seed" not in errors
    sampling = SamplingOptions(temp=9.0)
    request = request_of(max_tokens=8, sampling=sampling)
    generate.run(request, QUESTION, prompt, thinking)
    first = capsys.readouterr()
    seed = int(re.search(r"^Seed: (\d+),", first.err, re.M)[1])
    again = request_of(max_tokens=8, sampling=SamplingOptions(temp=9.0, seed=seed))
    generate.run(again, QUESTION, prompt, thinking)
    second = capsys.readouterr()
    assert second.out == first.out and "Seed" not in second.err
    generate.run(request, QUESTION, prompt, thinking, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == report["drafter"] == "tiny"
    assert 0 <= report["seed"] < 2**32 and report["finish_reason"] == "length"


def test_cache_files_that_cannot_be_used(tmp_path, capsys):
    with pytest.raises(MissingFilesError, match="no folder"):
        run_json(capsys, tmp_path / "none" / "talk")
    (tmp_path / "broken").write_text("x")
    with pytest.raises(DFlashError, match="broken"):
        run_json(capsys, tmp_path / "broken")


def test_a_cache_file_is_checked_before_the_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(AnswerRequest, "load", pytest.fail)
    with pytest.raises(MissingFilesError, match="File name too long"):
        run_json(capsys, tmp_path / ("x" * 300))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MissingFilesError, match="cannot be written to"):
        run_json(capsys, tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("damage", (lambda whole: whole[:-5], lambda whole: b""))
def test_a_damaged_cache_file_that_cannot_be_renamed_is_kept(
    tmp_path, capsys, monkeypatch, damage
):
    file = tmp_path / "talk"
    first = run_json(capsys, file)
    file.write_bytes(left := damage(file.read_bytes()))

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", denied)
    request, prompt = request_of(max_tokens=40), PromptOptions(prompt_cache_file=file)
    generate.run(request, QUESTION, prompt, ThinkingOptions(), as_json=True)
    again = capsys.readouterr()
    assert json.loads(again.out)["text"] == first["text"]
    assert "It could not be renamed: Permission denied." in again.err
    assert file.read_bytes() == left


@pytest.mark.parametrize(
    ("fields", "prompt", "thinking", "option"),
    [
        ({"system_prompt": "Be brief."}, {}, {}, "--system-prompt"),
        ({"chat_template_config": "{}"}, {}, {}, "--chat-template-config"),
        ({}, {"prefill_response": "1"}, {}, "--prefill-response"),
        ({}, {}, {"thinking": "off"}, "--thinking"),
        ({}, {}, {"reasoning_effort": "low"}, "--reasoning-effort"),
    ],
)
def test_options_that_need_a_template_are_refused_without_one(
    fields, prompt, thinking, option, monkeypatch
):
    request, thinking = request_of(**fields), ThinkingOptions(**thinking)
    raw = PromptOptions(ignore_chat_template=True, **prompt)
    with pytest.raises(OptionError, match=f"--ignore-chat-template and {option}"):
        generate.run(request, "Hi", raw, thinking)
    pair, tokenizer = load("tiny")
    tokenizer.has_chat_template = False
    monkeypatch.setattr(AnswerRequest, "load", lambda *_: (pair, tokenizer))
    with pytest.raises(OptionError, match=f"{option} needs a chat template"):
        generate.run(request, "Hi", PromptOptions(**prompt), thinking)


@pytest.mark.slow
def test_a_damaged_cache_file_is_set_aside(tmp_path, capsys):
    file = tmp_path / "talk"
    first = run_json(capsys, file)
    whole = file.read_bytes()
    for n in ("", "-2"):
        file.write_bytes(whole[:-5])
        again = run_json(capsys, file)
        assert again["text"] == first["text"] and again["cached_tokens"] == 0
        assert (tmp_path / f"talk.broken{n}").read_bytes() == whole[:-5]
        assert run_json(capsys, file)["cached_tokens"] > 0


def test_thinking_reaches_the_template():
    _, tokenizer = load("tiny", "none")
    default = generate.thinking_of(ThinkingOptions())
    assert default.template_arguments(tokenizer) == {}
    off = generate.thinking_of(ThinkingOptions("off"))
    with pytest.raises(OptionError, match="no thinking switch"):
        off.template_arguments(tokenizer)
    tokenizer.chat_template = "{% if enable_thinking %}<think>{% endif %}{{ messages }}"
    assert off.template_arguments(tokenizer) == {"enable_thinking": False}


@pytest.fixture(scope="module")
def pair():
    return Pair.of(architectures.build("qwen3"))


@pytest.fixture
def answer(pair, monkeypatch, capsys):
    """A function of options that runs generate on a small pair and returns its JSON."""
    tokenizer = make_tokenizer("{{ topic }}" + TEMPLATES["stable"])
    monkeypatch.setattr(AnswerRequest, "load", lambda *_: (pair, tokenizer))

    def call(file=None, **fields):
        request = request_of(max_tokens=3, **fields)
        prompt = PromptOptions(prompt_cache_file=file)
        generate.run(request, "What-is-this?", prompt, ThinkingOptions(), as_json=True)
        return json.loads(capsys.readouterr().out)

    return call


def test_max_kv_size_holds_with_a_cache_file_and_without(pair, answer, tmp_path):
    assert generate.open_cache(None, pair, 24).max_kv_size == 24
    assert generate.open_cache(tmp_path / "none", pair, 24).max_kv_size == 24
    file = tmp_path / "talk"
    answer(file, max_kv_size=24)
    assert load_cache(file, pair).max_kv_size == 24
    assert (
        answer(file)["cached_tokens"] == answer(file, max_kv_size=24)["cached_tokens"]
    )
    with pytest.raises(CacheFileError, match="max_kv_size 24, not 32"):
        answer(file, max_kv_size=32)
    file.write_bytes(file.read_bytes()[:-5])
    answer(file, max_kv_size=32)  # the damaged file is renamed
    assert load_cache(file, pair).max_kv_size == 32


def test_a_variable_reaches_the_template(answer):
    report = answer(chat_template_config='{"topic": "abc"}')
    assert report["prompt_tokens"] == answer()["prompt_tokens"] + 3


@pytest.mark.parametrize("text", ("[1]", "3", "{"))
def test_a_template_config_that_is_not_a_json_object_is_refused(text, answer):
    with pytest.raises(OptionError, match="--chat-template-config must be"):
        answer(chat_template_config=text)


def test_a_model_without_a_chat_template_is_noted(tmp_path):
    folder = copy_tiny(tmp_path / "tiny")
    change_json(folder / "tokenizer_config.json", chat_template=None)
    run = program("generate", "Hi", "--model", str(folder), "-m", "2")
    assert run.returncode == 0 and "has no chat template" in run.stderr
    raw = ("--ignore-chat-template",)
    run = program("generate", "Hi", "--model", str(folder), "-m", "2", *raw)
    assert run.returncode == 0 and "no chat template" not in run.stderr
