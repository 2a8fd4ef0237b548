"""A drafter's dtype where the GPU has no native bfloat16: float16 unless it drafts
worse."""

import mlx.core as mx
import pytest

from dflash_mlx import Pair, device, load
from dflash_mlx.store import Store
from dflash_mlx.tuning import draft_dtype
from dflash_mlx.tuning.draft_dtype import choose_draft_dtype
from tests.equipment.tiny import (
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
    assert pair.drafter.dtype == mx.bfloat16


@pytest.mark.full("programs")
def test_float16_where_it_drafts_as_well(without_bfloat16, uncalibrated, monkeypatch):
    monkeypatch.setattr(draft_dtype, "TOKENS", 24)  # half precision is slow on a CPU
    pair, _ = load("tiny")
    assert pair.drafter.dtype == mx.float16
    packed, _ = load("tiny", draft_quantize=4)
    assert packed.drafter.fc.scales.dtype == mx.float16
    assert packed.drafter.fc.weight.dtype == mx.uint32


@pytest.mark.slow
def test_float32_where_float16_overflows():
    """The same function, with numbers beyond 65,504 inside the MLP."""
    pair, tokenizer = load("tiny")
    for layer in pair.drafter.layers:
        mlp = layer.mlp
        mlp.up_proj.weight = mlp.up_proj.weight * 2.0**15
        mlp.down_proj.weight = mlp.down_proj.weight * 2.0**-15
    before = {k: mx.array(v) for k, v in pair.drafter.norm.items()}
    assert choose_draft_dtype(pair, tokenizer) == mx.float32
    # Cast from the original weights, not from those in float16.
    assert mx.array_equal(pair.drafter.norm.weight, before["weight"]).item()


@pytest.mark.parametrize("better", ("float16", "float32"))
def test_the_outcome_is_measured_once_and_stored(tmp_path, monkeypatch, better):
    store, notices, measured = Store("here", tmp_path / "costs.json"), [], []

    def measure(pair, weights, prompt):
        measured.append(pair.drafter.dtype)
        return better, {"float16": 4.0, "float32": 4.0}

    monkeypatch.setattr(draft_dtype, "measure", measure)
    for _ in range(3):
        pair, tokenizer = load("tiny")
        dtype = choose_draft_dtype(pair, tokenizer, notices.append, store)
        assert dtype == pair.drafter.dtype == getattr(mx, better)
    assert len(measured) == len(notices) == 1
    # Other weights of the same shapes are measured anew.
    pair, tokenizer = load("tiny")
    pair.drafter.norm.weight = pair.drafter.norm.weight * 2
    choose_draft_dtype(pair, tokenizer, notices.append, store)
    assert len(measured) == 2


def test_without_a_measurement_the_drafter_is_safe_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(draft_dtype, "decode", None)
    store = Store("here", tmp_path / "costs.json")
    pair, tokenizer = load("tiny")
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
    hidden = drafter.forward_block(mx.array([5]), cache, 8)
    assert hidden.dtype == dtype
    assert drafter.logits(hidden).dtype == (wide or mx.bfloat16)
