"""A drafter's dtype: float16 where the GPU has no native bfloat16, unless it drafts
worse; beside a float32 target on the CPU, the one that drafts faster."""

import shutil
from itertools import count

import mlx.core as mx
import pytest

from dflash_mlx import Pair, device, load
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.store import Store
from dflash_mlx.tuning import draft_dtype
from dflash_mlx.tuning.draft_dtype import choose_draft_dtype
from tests.equipment.tiny import (
    forward_block,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
)


@pytest.fixture
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(device, "native_bfloat16", lambda: False)


def test_native_gpus_keep_the_checkpoints_dtype():
    pair, _ = load("tiny")
    assert pair.drafter.dtype == mx.bfloat16 == draft_dtype.target_dtype(pair)


@pytest.mark.full("programs")
def test_float16_where_it_drafts_as_well(without_bfloat16, uncalibrated, monkeypatch):
    monkeypatch.setattr(draft_dtype, "TOKENS", 24)  # half precision is slow on a CPU
    pair, _ = load("tiny")
    assert pair.drafter.dtype == mx.float16
    packed, _ = load("tiny", draft_quantize=4)
    assert packed.drafter.fc.scales.dtype == mx.float16
    assert packed.drafter.fc.weight.dtype == mx.uint32


@pytest.mark.slow
def test_float32_where_float16_overflows(monkeypatch):
    """The same function, with numbers beyond 65,504 inside the MLP."""
    pair, tokenizer = load("tiny")
    monkeypatch.setattr(device, "native_bfloat16", lambda: False)
    for layer in pair.drafter.layers:
        mlp = layer.mlp
        mlp.up_proj.weight = mlp.up_proj.weight * 2.0**15
        mlp.down_proj.weight = mlp.down_proj.weight * 2.0**-15
    before = {k: mx.array(v) for k, v in pair.drafter.norm.items()}
    assert choose_draft_dtype(pair, tokenizer) == mx.float32
    # Cast from the original weights, not from those in float16.
    assert mx.array_equal(pair.drafter.norm.weight, before["weight"]).item()


@pytest.mark.parametrize("better", ("float16", "float32"))
def test_the_outcome_is_measured_once_and_stored(
    tmp_path, monkeypatch, better, without_bfloat16
):
    store, notices, measured = Store("here", tmp_path / "costs.json"), [], []

    def measure(pair, weights, prompt, choice, report):
        measured.append(pair.drafter.dtype)
        return better, {"tokens_per_round": {"float16": 4.0, "float32": 4.0}}

    monkeypatch.setattr(draft_dtype, "measure", measure)
    with pytest.MonkeyPatch.context() as native:
        native.setattr(device, "native_bfloat16", lambda: True)
        pairs = [load("tiny") for _ in range(4)]
    for pair, tokenizer in pairs[:3]:
        dtype = choose_draft_dtype(pair, tokenizer, notices.append, store)
        assert dtype == pair.drafter.dtype == getattr(mx, better)
    assert len(measured) == len(notices) == 1
    # Other weights of the same shapes are measured anew.
    pair, tokenizer = pairs[3]
    pair.drafter.norm.weight = pair.drafter.norm.weight * 2
    choose_draft_dtype(pair, tokenizer, notices.append, store)
    assert len(measured) == 2


def test_without_a_measurement_the_drafter_is_safe_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(draft_dtype, "decode", None)
    store = Store("here", tmp_path / "costs.json")
    pair, tokenizer = load("tiny")
    monkeypatch.setattr(device, "native_bfloat16", lambda: False)
    options = {"store": store, "measuring": False}
    assert choose_draft_dtype(pair, tokenizer, **options) == mx.float32
    assert store.all() == {}


def test_other_dtypes_are_left_alone():
    pair, tokenizer = load("tiny")
    pair.drafter.set_dtype(mx.float32)
    assert choose_draft_dtype(pair, tokenizer) == mx.float32


@pytest.mark.parametrize("dtype", (mx.float16, mx.bfloat16, mx.float32))
@pytest.mark.parametrize("target", ("float32", "bfloat16"))
def test_a_drafter_computes_in_its_own_dtype(dtype, target):
    model, drafter = make_model("qwen3", target), make_drafter()
    drafter.set_dtype(dtype)
    pair, prompt = Pair.of(model, drafter), some_prompt(30)
    assert run(pair, prompt, 20) == reference(model, prompt, 20)
    cache, wide = drafter.make_cache(), mx.float32 if target == "float32" else None
    drafter.extend(mx.random.normal((1, 9, 128)), cache)
    assert cache[0].fetch()[0].dtype == dtype
    hidden = forward_block(drafter, mx.array([5]), cache, 8)
    assert hidden.dtype == dtype
    assert drafter.logits(hidden).dtype == (wide or mx.bfloat16)


@pytest.fixture
def float32_pair():
    """A float32 target and a bfloat16 drafter."""
    drafter = make_drafter()
    drafter.set_dtype(mx.bfloat16)
    return Pair.of(make_model("llama"), drafter)


class Words:
    """A tokenizer of one prompt."""

    def encode(self, text):
        return some_prompt(20)


def choose(pair, tmp_path, **options):
    store = Store("here", tmp_path / "costs.json")
    return choose_draft_dtype(pair, Words(), store=store, **options)


def timed(monkeypatch, **seconds):
    """Let drafts take this long by dtype, and count the measurements."""
    measured = []

    def seconds_per_draft(pair, prompt):
        name = str(pair.drafter.dtype).removeprefix("mlx.core.")
        measured.append(name)
        return seconds[name]

    monkeypatch.setattr(draft_dtype, "seconds_per_draft", seconds_per_draft)
    return measured


@pytest.mark.parametrize("seconds", (0.02, 0.044, 0.09))
def test_the_faster_dtype_beside_a_float32_target(
    float32_pair, seconds, tmp_path, monkeypatch
):
    """Measured once: a second load only reads the outcome."""
    measured = timed(monkeypatch, bfloat16=0.045, float32=seconds)
    better = mx.float32 if seconds == 0.02 else mx.bfloat16  # 0.044 is no gain
    notices, lines = [], []
    said = {"notice": notices.append, "status": lines.append}
    before = mx.array(float32_pair.drafter.fc.weight)
    assert choose(float32_pair, tmp_path, **said) == better
    assert float32_pair.drafter.fc.weight.dtype == better
    assert mx.array_equal(float32_pair.drafter.fc.weight, before).item()
    assert measured == ["bfloat16", "float32"] and len(notices) == 1
    assert "float32 and bfloat16" in notices[0] and "--no-calibration" in notices[0]
    assert lines[0] == "Measuring the drafter: a draft in bfloat16, 1 of 4"
    assert len(lines) == (4 if better == mx.float32 else 2)
    float32_pair.drafter.set_dtype(mx.bfloat16)
    assert choose(float32_pair, tmp_path, measuring=False) == better
    assert len(measured) == 2


def test_a_faster_dtype_that_drafts_worse_is_not_taken(
    float32_pair, tmp_path, monkeypatch
):
    timed(monkeypatch, bfloat16=0.045, float32=0.02)

    def decode_rounds(pair, prompt, tokens, budget):
        return [1] + [4 if pair.drafter.dtype == mx.bfloat16 else 3] * 12

    monkeypatch.setattr(draft_dtype, "decode_rounds", decode_rounds)
    assert choose(float32_pair, tmp_path) == mx.bfloat16


def test_nothing_is_measured_where_the_dtype_is_no_question(
    float32_pair, tmp_path, monkeypatch
):
    monkeypatch.setattr(draft_dtype, "measure", None)
    options = {"notice": None, "measuring": True}
    assert choose(float32_pair, tmp_path, measuring=False) == mx.bfloat16
    with monkeypatch.context() as patch:  # a Mac's GPU, or CUDA
        patch.setattr(device, "runs_on_cpu", lambda: False)
        assert choose(float32_pair, tmp_path, **options) == mx.bfloat16
    with monkeypatch.context() as patch:
        held = device.model_bytes(float32_pair.model)
        held += device.model_bytes(float32_pair.drafter)
        patch.setattr(device, "memory_bytes", lambda: held + 1000)
        assert choose(float32_pair, tmp_path, **options) == mx.bfloat16
    float32_pair.drafter.set_dtype(mx.float32)
    assert choose(float32_pair, tmp_path, **options) == mx.float32
    assert not (tmp_path / "costs.json").exists()


@pytest.mark.slow
def test_a_draft_is_timed_and_its_rounds_are_counted(float32_pair):
    """By real passes, with a clock that counts its calls."""
    clock, prompt = count().__next__, some_prompt(20)
    assert draft_dtype.seconds_per_draft(float32_pair, prompt, clock) == 1
    rounds = draft_dtype.decode_rounds(float32_pair, prompt, 30, None)
    assert sum(rounds) == 30 and rounds[0] == 1
    short = draft_dtype.decode_rounds(float32_pair, prompt, 30, 2.0, clock)
    assert short == rounds[:3]


@pytest.mark.slow
def test_a_load_chooses_the_dtype_of_a_half_precision_drafter(tmp_path, monkeypatch):
    measured = timed(monkeypatch, bfloat16=0.045, float32=0.02)
    monkeypatch.setattr(draft_dtype, "TOKENS", 8)
    monkeypatch.setattr(draft_dtype, "dtype_key", lambda pair: f"{tmp_path}")
    folder = tmp_path / "target"
    shutil.copytree(TINY_FOLDER, folder)
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {name: array.astype(mx.float32) for name, array in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    drafter = str(TINY_FOLDER / "drafter")
    pair, _ = load(str(folder), drafter, calibration=False)
    assert pair.drafter.dtype == mx.bfloat16 and not measured
    for _ in range(2):
        pair, _ = load(str(folder), drafter)
        assert pair.drafter.dtype == mx.float32
    assert measured == ["bfloat16", "float32"]
