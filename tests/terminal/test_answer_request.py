"""The options of an answer: which are refused, and what stream_generate receives."""

import json
from types import SimpleNamespace

import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.terminal import answer_request
from dflash_mlx.terminal.answer_options import (
    AnswerOptions,
    PromptOptions,
    SamplingOptions,
    Shorthand,
)
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.options import parse_object
from dflash_mlx.terminal.screen import progress
from dflash_mlx.types import Sampling


@pytest.mark.parametrize("text", ("[1]", "3", '"a"', "null", "{", "{1: 2}"))
def test_values_that_are_not_json_objects_are_refused(text):
    with pytest.raises(OptionError, match="--any must be a JSON object, but is"):
        parse_object(text, "--any")
    with pytest.raises(OptionError, match="--chat-template-config must be"):
        request_of(chat_template_config=text).template_arguments()
    with pytest.raises(OptionError, match="--logit-bias must be"):
        SamplingOptions(logit_bias=text).sampling()


@pytest.fixture
def streamed(monkeypatch):
    """Replace stream_generate by a function that returns its arguments."""
    monkeypatch.setattr(
        answer_request, "stream_generate", lambda *args, **options: (args, options)
    )


def test_every_option_of_an_answer_is_passed_on(streamed):
    passed_on = {
        "max_tokens": 7,
        "block_size": 5,
        "stop": ["x", "y"],
        "prefill_step_size": 11,
        "kv_bits": 4,
        "kv_group_size": 32,
        "quantized_kv_start": 13,
    }
    sampling = Sampling(temp=0.7, top_k=3, seed=5)
    request = AnswerRequest(sampling=sampling, **passed_on)
    args, options = request.stream("pair", "tokenizer", [1], "cache", len)
    assert args == ("pair", "tokenizer", [1])
    assert options == passed_on | {
        "sampling": sampling,
        "speculate": True,
        "prompt_cache": "cache",
        "prompt_progress_callback": len,
        "grammar": None,
    }
    _, options = AnswerRequest(plain=True).stream("pair", "tokenizer", [1], "cache")
    assert not options["speculate"] and options["stop"] == ()


def test_xtc_never_drops_tokens_that_end_a_line_or_the_text(streamed):
    ends = SimpleNamespace(encode=lambda text, **_: [ord(text)], eos_token_ids={3, 2})
    sampling = Sampling(temp=1.0, xtc_probability=0.5)
    _, options = AnswerRequest(sampling=sampling).stream("pair", ends, [1], "cache")
    assert options["sampling"].xtc_special_tokens == (10, 2, 3)


def test_the_bar_disappears_after_the_prompt():
    with progress.PrefillBar(True) as reading:
        reading(0, 10)
        reading._start()  # as the timer does
        reading(5, 10)
        assert reading.bar.live.is_started
        reading(10, 10)
        assert not reading.bar.live.is_started


def test_a_bar_that_comes_too_late_does_not_start():
    reading = progress.PrefillBar(True)
    reading(0, 10)
    reading.close()
    reading._start()
    assert not reading.started and not reading.bar.live.is_started


def request_of(shorthand=None, sampling=None, **fields):
    """The request of a command line with these options."""
    return AnswerRequest.from_options(
        AnswerOptions(**fields), sampling or SamplingOptions(), shorthand or Shorthand()
    )


@pytest.mark.parametrize("off", (True, False))
def test_the_switches_of_a_load_are_passed_on(monkeypatch, off):
    given, lines = [], []

    def load(*arguments, **options):
        given.append(options)
        options["status"]("Measuring")
        return SimpleNamespace(drafter=None, reason="none"), None

    monkeypatch.setattr(answer_request, "load", load)
    monkeypatch.setattr(answer_request.download, "fetch", lambda *_, **__: None)
    monkeypatch.setattr(answer_request, "print_notice", lines.append)
    request_of(no_calibration=off, no_wired=off, plain=True).load(False)
    assert given[0]["calibration"] == given[0]["wired"] == (not off)
    assert not lines  # progress is for terminals


def test_shorthand_sets_other_options():
    assert request_of().block_size is None and request_of().kernels == "auto"
    assert request_of(Shorthand(num_draft_tokens=3)).block_size == 4
    assert request_of(Shorthand(num_draft_tokens=0)).block_size == 1
    assert request_of(Shorthand(exact=True)).kernels == "exact"
    for shorthand, fields in (
        (Shorthand(num_draft_tokens=3), {"block_size": 4}),
        (Shorthand(num_draft_tokens=3), {"plain": True}),
        (Shorthand(num_draft_tokens=-1), {}),
        (Shorthand(exact=True), {"kernels": "off"}),
    ):
        with pytest.raises(OptionError):
            request_of(shorthand, **fields)
    with pytest.raises(OptionError, match="exclude"):
        PromptOptions(ignore_chat_template=True, use_default_chat_template=True)


def test_sampling_options_make_a_sampling():
    assert SamplingOptions().sampling() == Sampling()
    options = SamplingOptions(
        temp=0.7, top_k=5, presence_penalty=0.5, logit_bias='{"4":1}'
    )
    wanted = Sampling(temp=0.7, top_k=5, presence_penalty=0.5, logit_bias={4: 1.0})
    assert options.sampling() == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {"kv_group_size": 32},
        {"quantized_kv_start": 0},
        {"plain": True, "draft_window": 8},
        {"plain": True, "draft_quantize": 4},
    ],
)
def test_options_without_effect_are_refused(fields):
    with pytest.raises(OptionError):
        request_of(**fields)


@pytest.mark.parametrize("name", ("messages", "add_generation_prompt", "tokenize"))
def test_reserved_arguments_are_refused(name):
    with pytest.raises(OptionError, match=f"cannot set {name}"):
        request_of(chat_template_config=json.dumps({name: 1})).template_arguments()
    with pytest.raises(OptionError, match="must be a JSON object"):
        request_of(chat_template_config="[" * 100_000).template_arguments()
