"""Shapes by name: the widened pair says the same at any size; what has no shape says
so; numbers agree with the registry and with published configs."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from benchmarks.race import PROMPTS
from dflash_mlx import decode, device, load
from dflash_mlx.bench import shapes
from dflash_mlx.bench.shapes import Entry, shaped
from dflash_mlx.bench.widen import (
    RACE,
    DraftShape,
    Shape,
    Widening,
    shape_of,
    widen,
)
from dflash_mlx.errors import NotEnoughMemoryError, OptionError
from dflash_mlx.hub import registry
from dflash_mlx.text.chat_template import apply_template

CONFIGS = Path(__file__).parents[1] / "golden" / "configs"
# Every width and depth at once, and each way in which heads can be grouped: more query
# heads to a key-value head than the small pair's 3, fewer (copies of it), or as many.
SHAPES = {
    "race, narrower": (Shape(256, 640, 16, 4, 64, 8, 700), DraftShape(2, 3)),
    "groups of 5, deep drafter": (
        Shape(320, 448, 20, 4, 64, 7, 1000),
        DraftShape(5, 5),
    ),
    "groups of 2, head_dim x4": (Shape(192, 384, 16, 8, 128, 9, 513), DraftShape(3, 5)),
    "groups of 1, same depth": (Shape(224, 400, 6, 6, 32, 6, 512), DraftShape(2, 6)),
}


def small(dtype=mx.float32):
    """The embedded pair and its tokenizer."""
    pair, tokenizer = load("tiny", kernels="off")
    pair.model.set_dtype(dtype)
    pair.drafter.set_dtype(dtype)
    return pair, tokenizer


@pytest.fixture(scope="module")
def tiny():
    return small()


def rounds(pair, tokenizer, prompt, tokens=32):
    """An answer's tokens and what each of its rounds accepted."""
    ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
    found = list(decode(pair, ids, max_tokens=tokens, block_size=8))
    said = [token for round in found for token in round.tokens]
    return said, [round.accepted for round in found]


def agreement(one, other, tokenizer, tokens=32):
    """The share of tokens until two pairs' answers part, and each pair's rounds."""
    same = total = 0
    counts = [0, 0]
    for prompt in PROMPTS[:2]:
        (a, kept_a), (b, kept_b) = (
            rounds(pair, tokenizer, prompt, tokens) for pair in (one, other)
        )
        parted = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        same += next(parted, min(len(a), len(b)))
        total += max(len(a), len(b))
        counts[0] += len(kept_a)
        counts[1] += len(kept_b)
    return same / total, counts


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_says_and_accepts_the_same(tiny, name):
    pair, tokenizer = tiny
    shape, draft = SHAPES[name]
    wide = widen(pair, shape, draft)
    assert len(wide.drafter.taps) == draft.taps == len(set(wide.drafter.taps))
    assert wide.drafter.taps == tuple(sorted(wide.drafter.taps))
    assert len(wide.drafter.layers) == draft.num_hidden_layers
    assert shape_of(wide.target.config) == shape
    for prompt in PROMPTS[:2]:
        assert rounds(wide, tokenizer, prompt) == rounds(pair, tokenizer, prompt)


def test_nobody_listens_to_the_taps_that_were_added(tiny):
    pair, _ = tiny
    shape, draft = SHAPES["groups of 5, deep drafter"]
    wide = widen(pair, shape, draft)
    places = Widening(shape_of(pair.target.config), shape).places()
    heard = {places[tap] for tap in pair.drafter.taps}
    h = shape.hidden_size
    features = mx.random.normal((1, 3, draft.taps * h), key=mx.random.key(3))
    fused = wide.drafter.fuse(features)
    for i, tap in enumerate(wide.drafter.taps):
        other = mx.array(features)
        other[..., i * h : (i + 1) * h] = mx.arange(h)
        changed = not mx.allclose(wide.drafter.fuse(other), fused).item()
        assert changed == (tap in heard)


def test_inert_layers_cost_but_add_nothing(tiny):
    pair, _ = tiny
    wide = widen(pair, *SHAPES["groups of 5, deep drafter"])
    homes = Widening(
        shape_of(pair.target.config), shape_of(wide.target.config)
    ).places()
    x = mx.random.normal((1, 4, 320), key=mx.random.key(1))
    for i, layer in enumerate(wide.model.layers):
        assert mx.array_equal(layer(x), x).item() == (i not in homes)
        inside = mx.abs(layer.mlp.gate_proj(layer.input_layernorm(x)))
        assert 1e-3 < mx.max(inside).item() < 1e3  # nothing near under- or overflow
    for i in (1, 2, 3):
        weight = wide.drafter.layers[i].mlp.up_proj.weight
        assert mx.mean(weight != 0).item() > 0.99


@pytest.mark.slow
def test_race_is_the_race(tiny):
    pair, tokenizer = shaped("race", kernels="off")
    assert shape_of(pair.target.config) == RACE
    assert pair.drafter.dtype == mx.float32 and len(pair.drafter.layers) == 2
    assert rounds(pair, tokenizer, PROMPTS[0], 12) == rounds(*tiny, PROMPTS[0], 12)


@pytest.mark.slow
def test_bfloat16_says_the_same_in_short_answers():
    pair, tokenizer = small(mx.bfloat16)
    wide = widen(pair, *SHAPES["groups of 5, deep drafter"])
    weights = tree_flatten(wide.model.parameters()) + tree_flatten(
        wide.drafter.parameters()
    )
    assert {weight.dtype for _, weight in weights} == {mx.bfloat16}
    same, counts = agreement(pair, wide, tokenizer)
    assert same == 1 and counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("bits", (4, 8))
def test_a_quantized_pair_says_mostly_the_same(tiny, bits):
    pair, tokenizer = tiny
    shape = Shape(320, 448, 20, 4, 64, 7, 1024)
    wide = widen(pair, shape, DraftShape(3, 4), bits=bits, draft_bits=bits)
    linear = [
        m for m in wide.model.modules() if isinstance(m, (nn.Linear, nn.Embedding))
    ]
    assert not linear and wide.drafter.bits == bits
    assert wide.target.config["quantization"] == {"group_size": 64, "bits": bits}
    same, counts = agreement(pair, wide, tokenizer)
    assert same >= 0.8 and counts[1] <= counts[0] * 1.25


@pytest.mark.parametrize("bits, draft_bits", ((None, None), (4, None), (8, 4)))
def test_the_bytes_are_told_before_they_are_built(tiny, bits, draft_bits):
    entry = Entry("x", Shape(320, 448, 20, 4, 64, 7, 1024), DraftShape(3, 4))
    wide = widen(tiny[0], entry.target, entry.drafter, bits=bits, draft_bits=draft_bits)
    told = entry.bytes(bits, draft_bits, 4)
    built = [device.model_bytes(model) for model in (wide.model, wide.drafter)]
    assert told[:2] == pytest.approx(built, rel=0.01)
    assert told[2] == 4 * 320 * max(1024, 2 * 24 * 64 + 3 * 448)


@pytest.mark.parametrize("bits", (None, 4))
def test_building_takes_one_layer_more_than_the_result(tiny, bits):
    pair = tiny[0]
    entry = Entry("x", Shape(512, 1024, 8, 2, 64, 12, 2048), DraftShape(4, 4))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    wide = widen(pair, entry.target, entry.drafter, bits=bits, draft_bits=bits)
    peak = mx.get_peak_memory() - before
    target, drafter, building = entry.bytes(bits, bits, 4)
    assert peak < 1.05 * (target + drafter) + building
    assert wide.drafter.block_size == pair.drafter.block_size


@pytest.mark.parametrize("name", list(shapes.entries()))
def test_every_entry_can_be_built_and_quantized(tiny, name):
    entry = shapes.find(name.upper())
    assert entry.name == name
    Widening(shape_of(tiny[0].target.config), entry.target)
    draft = entry.drafter
    assert draft.num_hidden_layers >= 2 and 3 <= draft.taps <= 6
    shape = entry.target
    for columns in (
        *(shape.hidden_size, shape.intermediate_size),
        shape.num_attention_heads * shape.head_dim,
    ):
        assert columns % 64 == 0


def test_every_alias_has_a_shape_or_a_reason_and_the_registered_numbers():
    for target in registry.targets():
        assert (target.alias in shapes.entries()) != (target.alias in shapes.refused())
        if target.alias in shapes.entries() and target.numbers:
            shape = shapes.find(target.alias).target
            numbers = (shape.hidden_size, shape.num_hidden_layers, shape.vocab_size)
            assert numbers == target.numbers[1:]
    aliases = {target.alias for target in registry.targets()}
    assert set(shapes.refused()) <= aliases
    for _, nearest in shapes.refused().values():
        assert not nearest or nearest in shapes.entries()


@pytest.mark.parametrize(
    "name, file",
    (("qwen3-4b", "z-lab-dflash-first"), ("qwen3-8b", "speculators-dflash")),
)
def test_drafters_are_as_wide_and_deep_as_the_published_ones(name, file):
    config = json.loads((CONFIGS / f"{file}.json").read_text())
    body = config.get("transformer_layer_config", config)
    entry = shapes.find(name)
    widths = vars(entry.target) | {"num_hidden_layers": entry.drafter.num_hidden_layers}
    assert {field: body[field] for field in widths} == widths
    taps = config.get("aux_hidden_state_layer_ids")
    taps = taps or config["dflash_config"]["target_layer_ids"]
    assert entry.drafter.taps == len(taps)


@pytest.mark.parametrize(
    "name, words",
    (
        ("qwen3.8-27b", ("recurrent", "--shape qwen3-14b", "race")),
        ("gpt-oss-20b", ("experts", "Shapes: race, qwen3-0.6b")),
        ("tiny", ("without --shape",)),
        ("qwen3-8", ("no shape", "Did you mean qwen3-8b")),
        ("nonsense", ("no shape", "llama3.1-8b")),
    ),
)
def test_what_has_no_shape_says_why_and_what_has(name, words):
    with pytest.raises(OptionError) as error:
        shaped(name)
    assert all(word in str(error.value) for word in words)
    assert "Nearest" not in str(error.value) or "27b" in name


@pytest.mark.parametrize(
    "option",
    ({"quantize": 3}, {"draft_quantize": 5}, {"dtype": "int8"}, {"kernels": "?"}),
)
def test_options_out_of_range(option):
    with pytest.raises(OptionError):
        shaped("race", **option)


def test_memory_is_asked_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 8 * device.GIB)
    with pytest.raises(NotEnoughMemoryError, match="14.1 GiB for the target") as error:
        shaped("qwen3-8b")
    assert "--quantize 4 --draft-quantize 4 or --shape minicpm5-2b" in error.value.hint
    with pytest.raises(NotEnoughMemoryError) as error:
        shaped("qwen3-14b", quantize=4, draft_quantize=4)
    assert error.value.hint == "Try --shape qwen3-8b."
    monkeypatch.setattr(device, "memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnoughMemoryError) as error:
        shaped("race")
    assert not error.value.hint


def test_drafters_that_cannot_hold_the_small_one(tiny):
    shape = SHAPES["race, narrower"][0]
    for draft in (DraftShape(1, 3), DraftShape(2, 2), DraftShape(2, 9)):
        with pytest.raises(OptionError, match="drafter's"):
            widen(tiny[0], shape, draft)
