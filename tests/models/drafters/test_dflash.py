"""The DFlash v1 drafter: the published one's logits, checkpoints and contexts."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, load_drafter
from dflash_mlx.errors import (
    ConfigError,
    MissingFilesError,
    OptionError,
    WeightsError,
)
from dflash_mlx.models.drafters import read_config, save_folder
from dflash_mlx.models.drafters.config import DFlashConfig
from dflash_mlx.models.drafters.dflash import DFlash
from tests.equipment.tiny import (
    VOCAB,
    golden_weights,
    greedy,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
    write,
)
from tests.golden.make_dflash_v1 import CASES, ROUNDS, SHAPE

GOLDEN = Path(__file__).parents[2] / "golden" / "dflash_v1.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_drafter(case):
    arrays = mx.load(str(GOLDEN))
    drafter = DFlash(DFlashConfig(**SHAPE | CASES[case]))
    drafter.load_weights(list(golden_weights(arrays, case).items()))
    embed, head = arrays[f"{case}.embed"], arrays[f"{case}.head"]
    drafter.bind(lambda ids: embed[ids], lambda h: h @ head.T)
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}.{i}.features"], cache)
        seen = []

        def choose(logits, slots, ids=None, seen=seen):
            seen.append(logits)
            return mx.argmax(logits, axis=-1)

        drafter.propose(arrays[f"{case}.{i}.anchor"], cache, 6, choose)
        wanted = arrays[f"{case}.{i}.logits"]
        error = mx.abs(seen[0] - wanted).max() / mx.abs(wanted).max()
        assert error.item() < 1e-4


# Both generations of z-lab's config.json, with the numbers of published drafters.
FIRST = {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 5,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "num_target_layers": 36,
    "block_size": 16,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "dflash_config": {
        "mask_token_id": 151669,
        "target_layer_ids": [1, 9, 17, 25, 33],
    },
}
SECOND = {
    **{k: v for k, v in FIRST.items() if k not in ("block_size", "rope_theta")},
    "vocab_size": 248320,
    "num_target_layers": 32,
    "rope_parameters": {"rope_theta": 10000000, "rope_type": "default"},
    "dflash_config": {
        "block_size": 16,
        "mask_token_id": 248070,
        "target_layer_ids": [1, 8, 15, 22, 29],
    },
}


def test_reads_both_generations_of_configs(tmp_path):
    first = read_config(write(tmp_path, FIRST))
    assert (first.block_size, first.rope_theta) == (16, 1e6)
    assert first.target_layer_ids == (1, 9, 17, 25, 33)
    second = read_config(write(tmp_path, SECOND))
    assert (second.block_size, second.rope_theta) == (16, 1e7)
    assert (second.mask_token_id, second.num_target_layers) == (248070, 32)


@pytest.mark.parametrize(
    "field",
    ["hidden_size", "num_hidden_layers", "num_target_layers", "rope_theta"],
)
def test_a_missing_field_is_named_with_its_file(tmp_path, field):
    config = {k: v for k, v in FIRST.items() if k != field}
    with pytest.raises(ConfigError, match=rf"config\.json has no {field}"):
        read_config(write(tmp_path, config))


@pytest.mark.parametrize("field", ["mask_token_id", "target_layer_ids"])
def test_a_missing_nested_field_is_named(tmp_path, field):
    nested = {k: v for k, v in FIRST["dflash_config"].items() if k != field}
    with pytest.raises(ConfigError, match=f"has no {field}"):
        read_config(write(tmp_path, FIRST | {"dflash_config": nested}))


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["DFlash2DraftModel"]},
        {"layer_types": ["sliding_attention"] * 5},
        {"dflash_config": FIRST["dflash_config"] | {"selector_rank": 256}},
        {"dflash_config": FIRST["dflash_config"] | {"projector_type": "mlp"}},
        {"dflash_config": FIRST["dflash_config"] | {"something_new": 1}},
        {"dflash_config": FIRST["dflash_config"] | {"block_size": 8}},
        {"markov_rank": 256},
        {"speculators_config": {}},
        {"hidden_size": "2560"},
    ],
)
def test_fields_of_other_drafters_are_refused(tmp_path, change):
    with pytest.raises(ConfigError):
        read_config(write(tmp_path, FIRST | change))


def test_a_checkpoint_round_trips(tmp_path):
    drafter = make_drafter()
    save_folder(drafter, tmp_path, mx.float32)
    again = load_drafter(tmp_path)
    assert again.config.to_json() == drafter.config.to_json()
    for (name, a), (_, b) in zip(
        tree_flatten(drafter.parameters()),
        tree_flatten(again.parameters()),
        strict=True,
    ):
        assert mx.array_equal(a, b), name


def test_broken_checkpoints(tmp_path):
    drafter = make_drafter()
    save_folder(drafter, tmp_path)
    file = tmp_path / "model.safetensors"
    weights = mx.load(str(file))

    def store(changed):
        mx.save_safetensors(str(file), changed)

    store({k: v for k, v in weights.items() if k != "fc.weight"})
    with pytest.raises(WeightsError, match=r"is missing fc\.weight"):
        load_drafter(tmp_path)
    store(weights | {"markov_head.markov_w1.weight": mx.zeros((2, 2))})
    with pytest.raises(WeightsError, match="unknown tensors: markov_head"):
        load_drafter(tmp_path)
    store(weights | {"norm.weight": mx.zeros((3,))})
    with pytest.raises(WeightsError, match=r"norm\.weight of shape \[3\]"):
        load_drafter(tmp_path)
    store(weights)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(WeightsError):
        load_drafter(tmp_path)
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_drafter(tmp_path)
    file.unlink()
    with pytest.raises(MissingFilesError, match="weights"):
        load_drafter(tmp_path)
    (tmp_path / "config.json").write_text("{")
    store(weights)
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_drafter(tmp_path)


@pytest.mark.parametrize("bits", (4, 8))
def test_quantization_at_load(tmp_path, bits):
    drafter = make_drafter()
    save_folder(drafter, tmp_path)
    packed = load_drafter(tmp_path, quantize=bits)
    assert packed.fc.bits == packed.layers[0].mlp.down_proj.bits == bits
    full = load_drafter(tmp_path)
    pair = Pair.of(make_model("llama"), full)
    packed.bind(pair.target.embed, pair.target.head)
    features = mx.random.normal((1, 9, 128), key=mx.random.key(1))
    found = []
    for each in (full, packed):
        cache = each.make_cache()
        each.extend(features, cache)
        found.append(cache[0].fetch()[1])
    error = mx.abs(found[0] - found[1]).max() / mx.abs(found[0]).max()
    assert 0 < error.item() < (0.5 if bits == 4 else 0.05)


def bound(drafter):
    mx.random.seed(4)
    embed = mx.random.normal((VOCAB, 64))
    drafter.bind(lambda ids: embed[ids], lambda h: h @ embed.T)
    return drafter


def test_a_window_sees_the_last_rows_only():
    features = mx.random.normal((1, 700, 128), key=mx.random.key(2))
    anchor = mx.array([5], dtype=mx.uint32)
    windowed, full = bound(make_drafter(window=20)), bound(make_drafter())
    cache = windowed.make_cache()
    for at in range(0, 700, 7):  # past several compactions of the buffer
        windowed.extend(features[:, at : at + 7], cache)
    assert cache[0].fetch()[0].shape[2] == 20
    assert cache[0].arrays()[0].shape[2] <= 20 + 2 * cache[0].SLACK
    late = full.make_cache()
    for entry in late:
        entry.skip(680)
    full.extend(features[:, 680:], late)
    assert cache[0].offset == late[0].offset == 700
    a = windowed.propose(anchor, cache, 8, greedy)
    b = full.propose(anchor, late, 8, greedy)
    assert a.tolist() == b.tolist()
    whole = full.make_cache()
    full.extend(features, whole)
    keys = whole[1].fetch()[0][..., 680:, :]
    assert mx.allclose(keys, cache[1].fetch()[0], atol=1e-5).item()


SLIDING = {
    "layer_types": ("sliding_attention", "full_attention"),
    "sliding_window": 13,
}


def test_a_sliding_layer_keeps_its_window_and_no_more():
    drafter = bound(make_drafter(**SLIDING))
    assert drafter.window is None  # the other layer sees everything
    features = mx.random.normal((1, 400, 128), key=mx.random.key(2))
    cache = drafter.make_cache()
    for at in range(0, 400, 5):
        drafter.extend(features[:, at : at + 5], cache)
    assert cache[0].fetch()[0].shape[2] == 12 and cache[1].fetch()[0].shape[2] == 400
    assert cache[0].positions().tolist() == list(range(388, 400))
    whole = drafter.make_cache()
    drafter.extend(features, whole)
    anchor = mx.array([5], dtype=mx.uint32)
    a = drafter.propose(anchor, cache, 8, greedy)
    assert a.tolist() == drafter.propose(anchor, whole, 8, greedy).tolist()
    only = make_drafter(layer_types=("sliding_attention",) * 2, sliding_window=13)
    assert only.window == 12
    narrow = make_drafter(window=5, **SLIDING)
    assert narrow.window == 5 and narrow.make_cache()[0].window == 5


def test_windows_count_positions_where_rows_are_missing():
    """Skipped rows leave a gap, which counts as part of the window."""
    drafter = bound(make_drafter(**SLIDING))
    features = mx.random.normal((1, 30, 128), key=mx.random.key(3))
    cache = drafter.make_cache()
    drafter.extend(features[:, :20], cache)
    for entry in cache:
        entry.skip(8)
    drafter.extend(features[:, 28:], cache)
    assert cache[1].positions().tolist() == [*range(20), 28, 29]
    mask = drafter.block_mask(0, cache[0], 4)[0, 0]
    keys = [*cache[0].positions().tolist(), 30, 31, 32, 33]
    wanted = [[30 + i - k < 13 and k <= 30 + i for k in keys] for i in range(4)]
    assert mask.tolist() == wanted
    for entry in cache:
        entry.cut(6)
    assert cache[0].offset == 24 and cache[1].positions().tolist() == list(range(20))


def test_causality_inside_the_block():
    def inside(**changes):
        drafter = make_drafter(**SLIDING | changes)
        cache = drafter.make_cache()
        masks = [drafter.block_mask(i, entry, 3) for i, entry in enumerate(cache)]
        return [mask is None or mask.all().item() for mask in masks]

    assert inside() == [False, True]  # a sliding layer is causal, a full one is not
    assert inside(is_causal=True) == [False, False]
    assert inside(is_causal=False) == [True, True]


# Qwen3.6-27B's drafter: four sliding layers and a full one.
THIRD = SECOND | {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_target_layers": 64,
    "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
    "sliding_window": 2048,
    "use_sliding_window": True,
    "dflash_config": SECOND["dflash_config"]
    | {"target_layer_ids": [1, 16, 31, 46, 61]},
}


def test_reads_sliding_layers(tmp_path):
    config = read_config(write(tmp_path, THIRD))
    assert config.layer_types.count("sliding_attention") == 4
    assert (config.sliding_window, config.is_causal) == (2048, None)
    for change in (
        {"layer_types": ["sliding_attention"] * 4},
        {"layer_types": ["linear_attention"] * 5},
        {"sliding_window": None},
        {"is_causal": "no"},
    ):
        with pytest.raises(ConfigError, match=next(iter(change))):
            read_config(write(tmp_path, THIRD | change))
    # A window that no layer uses is ignored.
    assert read_config(write(tmp_path, FIRST | {"sliding_window": 9}))


@pytest.mark.slow
@pytest.mark.parametrize("causal", (None, True, False))
def test_sliding_drafters_do_not_change_the_tokens(causal):
    model = make_model("llama")
    drafter = make_drafter(is_causal=causal, **SLIDING)
    prompt = some_prompt(60)
    pair = Pair.of(model, drafter)
    assert run(pair, prompt, 60, prefill_step_size=16) == reference(model, prompt, 60)


def test_sliding_checkpoints_round_trip(tmp_path):
    drafter = make_drafter(is_causal=False, **SLIDING)
    save_folder(drafter, tmp_path, mx.float32)
    assert load_drafter(tmp_path).config == drafter.config


def test_proposing_does_not_change_the_context():
    drafter = bound(make_drafter())
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 9, 128), key=mx.random.key(2)), cache)
    before = cache[0].fetch()[0]
    anchor = mx.array([5], dtype=mx.uint32)
    first = drafter.propose(anchor, cache, 8, greedy)
    second = drafter.propose(anchor, cache, 8, greedy)
    assert first.tolist() == second.tolist() and cache[0].offset == 9
    assert mx.array_equal(before, cache[0].fetch()[0])


def test_narrow_blocks_are_allowed_and_wrong_bits_are_not(tmp_path):
    drafter = bound(make_drafter())
    anchor = mx.array([5], dtype=mx.uint32)
    ids = drafter.propose(anchor, drafter.make_cache(), 3, greedy)
    assert ids.shape == (1, 2)
    from dflash_mlx import load

    with pytest.raises(OptionError, match="4 or 8"):
        load("tiny", draft_quantize=3)
