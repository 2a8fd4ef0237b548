"""One prompt from the command line: its options, and what comes before the answer."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from dflash_mlx import Pair
from dflash_mlx.cache.file import load as load_file
from dflash_mlx.errors import CacheFileError, MissingFilesError, OptionError
from dflash_mlx.hub import download as hub
from dflash_mlx.hub import registry
from dflash_mlx.hub.download import Plan
from dflash_mlx.terminal import answer_request as ask_module
from dflash_mlx.terminal import download, generate
from dflash_mlx.terminal.answer_options import (
    PromptOptions,
    SamplingOptions,
    ThinkingOptions,
)
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.options import parse_object
from dflash_mlx.terminal.screen import progress
from dflash_mlx.types import Sampling
from tests.equipment import architectures
from tests.equipment.tiny import write
from tests.equipment.turns import TEMPLATES, make_tokenizer
from tests.terminal.test_download import QWEN3_8B
from tests.terminal.test_generate import of


@pytest.fixture(scope="module")
def pair():
    return Pair.of(architectures.build("qwen3"))


@pytest.fixture
def asked(pair, monkeypatch, capsys):
    """One call in this process, as a function of its options: the JSON."""
    tokenizer = make_tokenizer("{{ topic }}" + TEMPLATES["stable"])
    monkeypatch.setattr(AnswerRequest, "open", lambda *_: (pair, tokenizer))

    def call(file=None, **fields):
        ask, how = of(max_tokens=3, **fields), PromptOptions(prompt_cache_file=file)
        generate.run(ask, "What-is-this?", how, ThinkingOptions(), as_json=True)
        return json.loads(capsys.readouterr().out)

    return call


def test_a_bound_holds_with_a_cache_file_and_without(pair, asked, tmp_path):
    assert generate.open_cache(None, pair, 24).max_kv_size == 24
    assert generate.open_cache(tmp_path / "none", pair, 24).max_kv_size == 24
    file = tmp_path / "talk"
    asked(file, max_kv_size=24)
    assert load_file(file, pair).max_kv_size == 24
    assert asked(file)["cached_tokens"] == asked(file, max_kv_size=24)["cached_tokens"]
    with pytest.raises(CacheFileError, match="max_kv_size 24, not 32"):
        asked(file, max_kv_size=32)
    file.write_bytes(file.read_bytes()[:-5])
    asked(file, max_kv_size=32)  # the damaged one is set aside
    assert load_file(file, pair).max_kv_size == 32


def test_a_variable_reaches_the_template(asked):
    told = asked(chat_template_config='{"topic": "abc"}')
    assert told["prompt_tokens"] == asked()["prompt_tokens"] + 3


@pytest.mark.parametrize("text", ("[1]", "3", '"a"', "null", "{", "{1: 2}"))
def test_what_is_no_json_object_is_refused(text, asked):
    with pytest.raises(OptionError, match="--any must be a JSON object, but is"):
        parse_object(text, "--any")
    with pytest.raises(OptionError, match="--chat-template-config must be"):
        asked(chat_template_config=text)
    with pytest.raises(OptionError, match="--logit-bias must be"):
        SamplingOptions(logit_bias=text).sampling()


@pytest.fixture
def streamed(monkeypatch):
    """What stream_generate is called with."""
    monkeypatch.setattr(
        ask_module, "stream_generate", lambda *args, **options: (args, options)
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
    how = Sampling(temp=0.7, top_k=3, seed=5)
    ask = AnswerRequest(sampling=how, **passed_on)
    args, told = ask.stream("pair", "tokenizer", [1], "held", len)
    assert args == ("pair", "tokenizer", [1])
    assert told == passed_on | {
        "sampling": how,
        "speculate": True,
        "prompt_cache": "held",
        "prompt_progress_callback": len,
    }
    _, told = AnswerRequest(plain=True).stream("pair", "tokenizer", [1], "held")
    assert not told["speculate"] and told["stop"] == ()


def test_what_ends_a_line_or_the_text_is_spared(streamed):
    ends = SimpleNamespace(encode=lambda text, **_: [ord(text)], eos_token_ids={3, 2})
    how = Sampling(temp=1.0, xtc_probability=0.5)
    _, told = AnswerRequest(sampling=how).stream("pair", ends, [1], "held")
    assert told["sampling"].xtc_special_tokens == (10, 2, 3)


def test_the_bar_is_gone_once_the_prompt_is_read():
    with progress.Prefill(True) as reading:
        reading(0, 10)
        reading._start()  # as the timer does
        reading(5, 10)
        assert reading.bar.live.is_started
        reading(10, 10)
        assert not reading.bar.live.is_started


def test_a_bar_that_comes_too_late_does_not_start():
    reading = progress.Prefill(True)
    reading(0, 10)
    reading.close()
    reading._start()
    assert not reading.started and not reading.bar.live.is_started


TARGET, DRAFTER = "org/Qwen3-8B-copy", registry.resolve_drafter("qwen3-8b")


@pytest.fixture
def hub_of(monkeypatch, tmp_path):
    """A Hub of a known target and its drafter, as a function of what it lacks, and
    what breaks off; what was fetched."""

    def make(lacking=(), failing=()):
        fetched = []

        def plan(name, revision=None):
            return None if name in lacking else Plan(name, revision, 9, 0, 5)

        def download(name, *_):
            if name in (*lacking, *failing):
                raise MissingFilesError(f"{name} cannot be had.")
            fetched.append(name)

        numbers = {"model_type": "qwen3", "vocab_size": 151936}
        config = write(tmp_path / "target", QWEN3_8B | numbers) / "config.json"
        monkeypatch.setattr(hub, "cached_folder", lambda *_: None)
        monkeypatch.setattr(hub, "fetch_file", lambda *_: config)
        monkeypatch.setattr(hub, "plan", plan)
        monkeypatch.setattr(hub, "download", download)
        return fetched

    return make


@pytest.mark.parametrize("how", ("lacking", "failing"))
@pytest.mark.parametrize("draft", (None, DRAFTER))
@pytest.mark.parametrize("gone", (TARGET, DRAFTER))
def test_only_a_drafter_that_nobody_named_may_be_missing(hub_of, how, draft, gone):
    """The Hub does not have it, or the download ends after it was planned."""
    fetched = hub_of(**{how: (gone,)})
    needed = gone == TARGET or draft
    refused = pytest.raises(MissingFilesError, match=f"{gone} cannot be had")
    with refused if needed else contextlib.nullcontext():
        download.fetch(TARGET, draft, notice=str, shown=False)
    assert needed or fetched == [TARGET]


def test_a_pair_is_fetched_whole(hub_of):
    fetched, lines = hub_of(), []
    download.fetch(TARGET, notice=lines.append, shown=False)
    assert fetched == [TARGET, DRAFTER] and len(lines) == 2


def test_layers_of_a_state_keep_no_keys():
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    assert download.attending({"layer_types": kinds * 2}) == 2
    kinds = ["sliding_attention", "chunked_attention", "full_attention"]
    assert download.attending({"layer_types": kinds}) == 1
