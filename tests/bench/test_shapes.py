"""Shapes by name: widened pairs, their sizes and memory, and names without a shape."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from benchmarks.race import PROMPTS
from dflash_mlx import decode, device, load
from dflash_mlx.bench import shapes
from dflash_mlx.bench.shapes import NamedShape, load_shape
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
# All widths and depths, and each way to group heads: more query heads per key-value
# head than the small pair's 3, fewer (with copies of it), or the same number.
SHAPES = {
    "race, narrower": (Shape(256, 640, 16, 4, 64, 8, 700), DraftShape(2, 3)),
    "groups of 5, deep drafter": (
        Shape(320, 448, 20, 4, 64, 7, 1000),
        DraftShape(5, 5),
    ),
    "groups of 2, head_dim x4": (Shape(192, 384, 16, 8, 128, 9, 513), DraftShape(3, 5)),
    "groups of 1, same depth": (Shape(224, 400, 6, 6, 32, 6, 512), DraftShape(2, 6)),
}


def load_small(dtype=mx.float32):
    """The embedded pair, without kernels, and its tokenizer."""
    pair, tokenizer = load("tiny", kernels="off")
    pair.model.set_dtype(dtype)
    pair.drafter.set_dtype(dtype)
    return pair, tokenizer


@pytest.fixture(scope="module")
def tiny():
    return load_small()


def decode_prompt(pair, tokenizer, prompt, tokens=32):
    """The tokens of an answer, and the number of accepted drafts in each round."""
    ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
    found = list(decode(pair, ids, max_tokens=tokens, block_size=8))
    produced = [token for round in found for token in round.tokens]
    return produced, [round.accepted for round in found]


def agreement(one, other, tokenizer, tokens=32):
    """The share of tokens before the first difference, and the rounds of each pair."""
    same = total = 0
    counts = [0, 0]
    for prompt in PROMPTS[:2]:
        (a, kept_a), (b, kept_b) = (
            decode_prompt(pair, tokenizer, prompt, tokens) for pair in (one, other)
        )
        differences = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
        same += next(differences, min(len(a), len(b)))
        total += max(len(a), len(b))
        counts[0] += len(kept_a)
        counts[1] += len(kept_b)
    return same / total, counts


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_tokens_and_acceptance_are_the_same_in_every_shape(tiny, name):
    pair, tokenizer = tiny
    shape, draft = SHAPES[name]
    wide = widen(pair, shape, draft)
    assert len(wide.drafter.taps) == draft.taps == len(set(wide.drafter.taps))
    assert wide.drafter.taps == tuple(sorted(wide.drafter.taps))
    assert len(wide.drafter.layers) == draft.num_hidden_layers
    assert shape_of(wide.target.config) == shape
    for prompt in PROMPTS[:2]:
        found = decode_prompt(wide, tokenizer, prompt)
        assert found == decode_prompt(pair, tokenizer, prompt)


def test_additional_taps_have_no_effect(tiny):
    pair, _ = tiny
    shape, draft = SHAPES["groups of 5, deep drafter"]
    wide = widen(pair, shape, draft)
    layers = Widening(shape_of(pair.target.config), shape).layer_indices()
    original = {layers[tap] for tap in pair.drafter.taps}
    h = shape.hidden_size
    features = mx.random.normal((1, 3, draft.taps * h), key=mx.random.key(3))
    fused = wide.drafter.fuse(features)
    for i, tap in enumerate(wide.drafter.taps):
        other = mx.array(features)
        other[..., i * h : (i + 1) * h] = mx.arange(h)
        changed = not mx.allclose(wide.drafter.fuse(other), fused).item()
        assert changed == (tap in original)


def test_inert_layers_compute_but_add_nothing(tiny):
    pair, _ = tiny
    wide = widen(pair, *SHAPES["groups of 5, deep drafter"])
    widening = Widening(shape_of(pair.target.config), shape_of(wide.target.config))
    original = widening.layer_indices()
    x = mx.random.normal((1, 4, 320), key=mx.random.key(1))
    for i, layer in enumerate(wide.model.layers):
        assert mx.array_equal(layer(x), x).item() == (i not in original)
        inside = mx.abs(layer.mlp.gate_proj(layer.input_layernorm(x)))
        assert 1e-3 < mx.max(inside).item() < 1e3  # far from underflow and overflow
    for i in (1, 2, 3):
        weight = wide.drafter.layers[i].mlp.up_proj.weight
        assert mx.mean(weight != 0).item() > 0.99


@pytest.mark.full("programs")
def test_the_race_shape(tiny, uncalibrated):
    pair, tokenizer = load_shape("race", kernels="off")
    assert shape_of(pair.target.config) == RACE
    assert pair.drafter.dtype == mx.float32 and len(pair.drafter.layers) == 2
    found = decode_prompt(pair, tokenizer, PROMPTS[0], 12)
    assert found == decode_prompt(*tiny, PROMPTS[0], 12)


@pytest.mark.slow
def test_short_answers_are_the_same_in_bfloat16():
    pair, tokenizer = load_small(mx.bfloat16)
    wide = widen(pair, *SHAPES["groups of 5, deep drafter"])
    weights = tree_flatten(wide.model.parameters()) + tree_flatten(
        wide.drafter.parameters()
    )
    assert {weight.dtype for _, weight in weights} == {mx.bfloat16}
    same, counts = agreement(pair, wide, tokenizer)
    assert same == 1 and counts[0] == counts[1]


@pytest.mark.full("programs")
@pytest.mark.parametrize("bits", (4, 8))
def test_most_tokens_are_the_same_in_a_quantized_pair(tiny, bits):
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
def test_bytes_are_known_before_building(tiny, bits, draft_bits):
    entry = NamedShape("x", Shape(320, 448, 20, 4, 64, 7, 1024), DraftShape(3, 4))
    wide = widen(tiny[0], entry.target, entry.drafter, bits=bits, draft_bits=draft_bits)
    expected = entry.bytes(bits, draft_bits, 4)
    built = [device.model_bytes(model) for model in (wide.model, wide.drafter)]
    assert expected[:2] == pytest.approx(built, rel=0.01)
    assert expected[2] == 4 * 320 * max(1024, 2 * 24 * 64 + 3 * 448)


@pytest.mark.slow
@pytest.mark.parametrize("bits", (None, 4))
def test_building_needs_one_more_layer_than_the_result(tiny, bits):
    pair = tiny[0]
    entry = NamedShape("x", Shape(512, 1024, 8, 2, 64, 12, 2048), DraftShape(4, 4))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    wide = widen(pair, entry.target, entry.drafter, bits=bits, draft_bits=bits)
    peak = mx.get_peak_memory() - before
    target, drafter, building = entry.bytes(bits, bits, 4)
    assert peak < 1.05 * (target + drafter) + building
    assert wide.drafter.block_size == pair.drafter.block_size


@pytest.mark.parametrize("name", list(shapes.named_shapes()))
def test_every_shape_can_be_built_and_quantized(tiny, name):
    entry = shapes.find_shape(name.upper())
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


def test_every_alias_has_a_shape_with_the_registered_sizes_or_a_reason():
    for target in registry.targets():
        has_shape = target.alias in shapes.named_shapes()
        assert has_shape != (target.alias in shapes.aliases_without_shape())
        if has_shape and target.numbers:
            shape = shapes.find_shape(target.alias).target
            numbers = (shape.hidden_size, shape.num_hidden_layers, shape.vocab_size)
            assert numbers == target.numbers[1:]
    aliases = {target.alias for target in registry.targets()}
    assert set(shapes.aliases_without_shape()) <= aliases
    for _, nearest in shapes.aliases_without_shape().values():
        assert not nearest or nearest in shapes.named_shapes()


@pytest.mark.parametrize(
    "name, file",
    (("qwen3-4b", "z-lab-dflash-first"), ("qwen3-8b", "speculators-dflash")),
)
def test_drafters_have_the_sizes_of_the_published_ones(name, file):
    config = json.loads((CONFIGS / f"{file}.json").read_text())
    body = config.get("transformer_layer_config", config)
    entry = shapes.find_shape(name)
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
        ("tiny", ("leave out --shape",)),
        ("qwen3-8", ("no shape", "Did you mean qwen3-8b")),
        ("nonsense", ("no shape", "llama3.1-8b")),
    ),
)
def test_names_without_a_shape_give_the_reason_and_all_shapes(name, words):
    with pytest.raises(OptionError) as error:
        load_shape(name)
    assert all(word in str(error.value) for word in words)
    assert "Similar in size" not in str(error.value) or "27b" in name


@pytest.mark.parametrize(
    "option",
    ({"quantize": 3}, {"draft_quantize": 5}, {"dtype": "int8"}, {"kernels": "?"}),
)
def test_options_out_of_range(option):
    with pytest.raises(OptionError):
        load_shape("race", **option)


def test_memory_is_checked_before_building(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 8 * device.GIB)
    with pytest.raises(NotEnoughMemoryError, match="14.1 GiB for the target") as error:
        load_shape("qwen3-8b")
    assert "--quantize 4 --draft-quantize 4 or --shape minicpm5-2b" in error.value.hint
    with pytest.raises(NotEnoughMemoryError) as error:
        load_shape("qwen3-14b", quantize=4, draft_quantize=4)
    assert error.value.hint == "Try --shape qwen3-8b."
    monkeypatch.setattr(device, "memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnoughMemoryError) as error:
        load_shape("race")
    assert not error.value.hint


def test_drafters_that_cannot_hold_the_small_one(tiny):
    shape = SHAPES["race, narrower"][0]
    for draft in (DraftShape(1, 3), DraftShape(2, 2), DraftShape(2, 9)):
        with pytest.raises(OptionError, match="drafter's"):
            widen(tiny[0], shape, draft)
