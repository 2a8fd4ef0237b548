"""The tensors of every packaging: they decode exactly and equal the golden arrays."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, Sampling, load_drafter
from dflash_mlx.convert import Changes, convert
from dflash_mlx.errors import WeightsError
from tests.equipment.tiny import (
    forward_block,
    golden_weights,
    make_model,
    reference,
    run,
    some_prompt,
    write,
)
from tests.golden.make_dflash2 import EXTRAS
from tests.golden.make_dflash_v1 import CASES, ROUNDS
from tests.golden.make_dflash_v1 import SHAPE as GOLDEN_SHAPE
from tests.golden.make_laguna import CONFIG as LAGUNA
from tests.models.drafters.published import CONFIGS, GOLDEN, REDUCED, checkpoint

SAMPLING = Sampling(temp=1.0, top_p=0.9, seed=4, repetition_penalty=1.1)


@pytest.fixture(scope="module")
def plain():
    """A model, a prompt, mlx-lm's greedy answer, and a sampled one without drafts."""
    model, prompt = make_model("qwen3"), some_prompt(30)
    sampled = run(Pair.of(model), prompt, 25, sampling=SAMPLING)
    return model, prompt, reference(model, prompt, 40), sampled


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_its_tensors_decode_exactly_and_round_trip(name, plain, tmp_path):
    folder = checkpoint(tmp_path / "published", name)
    drafter = load_drafter(folder)
    model, prompt, greedy, sampled = plain
    pair = Pair.of(model, drafter, None)
    assert run(pair, prompt, 40) == greedy
    for width in (None, 3):
        assert run(pair, prompt, 25, sampling=SAMPLING, block_size=width) == sampled
    convert(folder, tmp_path / "ours")
    again = load_drafter(tmp_path / "ours")
    assert again.config == drafter.config
    ours = dict(tree_flatten(again.parameters()))
    theirs = dict(tree_flatten(drafter.parameters()))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]) for key in ours)
    convert(folder, tmp_path / "packed", Changes(8))
    packed = Pair.of(model, load_drafter(tmp_path / "packed"))
    assert run(packed, prompt, 12) == greedy[:12]


def test_a_window_from_the_anchor_is_the_same_for_every_row(tmp_path):
    """speculators: k >= anchor - W for all rows of a block, and causal within it."""
    folder = checkpoint(tmp_path / "it", "speculators-dspark")
    drafter = load_drafter(folder)
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 40, 128)), cache)
    mask = drafter.block_mask(0, cache[0], 4)[0, 0]
    held = cache[0].positions().tolist()
    assert held == list(range(40 - 13, 40))
    assert mask[:, :13].all().item()
    assert mask[:, 13:].tolist() == [[k <= row for k in range(4)] for row in range(4)]


def test_drafts_of_a_reduced_vocabulary_are_target_ids(tmp_path):
    drafter = load_drafter(checkpoint(tmp_path / "it", "speculators-dflash"))
    model, seen = make_model("qwen3"), []
    Pair.of(model, drafter)
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 9, 128)), cache)

    def choose(logits, slots, ids):
        seen.append((logits.shape, ids.shape))
        best = mx.argmax(logits, axis=-1)[..., None]
        return mx.take_along_axis(ids, best, axis=-1)[..., 0]

    drafts = drafter.propose(mx.array([5]), cache, 8, choose)
    assert seen == [((1, 7, REDUCED), (1, 7, REDUCED))]
    assert all(draft % 2 == 0 and draft < 2 * REDUCED for draft in drafts[0].tolist())


def test_contradictory_vocabulary_maps_are_refused(tmp_path):
    folder = checkpoint(tmp_path / "it", "speculators-dflash")
    file = folder / "model.safetensors"
    weights = mx.load(str(file))
    mx.save_safetensors(str(file), weights | {"d2t": weights["d2t"] + 1})
    with pytest.raises(WeightsError, match="d2t and t2d"):
        load_drafter(folder)
    del weights["d2t"]
    mx.save_safetensors(str(file), weights)
    with pytest.raises(WeightsError, match="is missing d2t"):
        load_drafter(folder)


def test_float32_sinks_work_in_a_half_precision_drafter(tmp_path):
    folder = checkpoint(tmp_path / "it", "nvidia-dspark")
    file = folder / "model.safetensors"
    weights = mx.load(str(file))
    weights = {
        k: v if "sink" in k else v.astype(mx.bfloat16) for k, v in weights.items()
    }
    mx.save_safetensors(str(file), weights)
    model, prompt = make_model("qwen3", "bfloat16"), some_prompt(30)
    pair = Pair.of(model, load_drafter(folder))
    assert run(pair, prompt, 12) == reference(model, prompt, 12)


def test_the_default_window(tmp_path):
    """The config's; else 4,096 rows for full layers, and none for sliding layers."""
    for name, window in (("z-lab-dflash-second", 4096), ("z-lab-dflash2", None)):
        folder = checkpoint(tmp_path / name, name)
        drafter = load_drafter(folder)
        assert drafter.window_limit == window
        assert load_drafter(folder, window=7).window_limit == 7
        assert load_drafter(folder, window=0).window_limit is None
    assert load_drafter("tiny").window_limit == 128


# The weights of golden arrays, in other packagings: they must compute the same.


def equals_golden(arrays, case, drafter, drafts):
    embed, head = arrays[f"{case}embed"], arrays[f"{case}head"]
    drafter.bind(lambda ids: embed[ids], lambda h: h @ head.T)
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}{i}.features"], cache)
        wanted = arrays[f"{case}{i}.logits"]
        anchor = arrays[f"{case}{i}.anchor"]
        block = forward_block(drafter, anchor, cache, drafts + 1)
        hidden = block[:, drafter.draft_rows(drafts + 1)]
        error = mx.abs(drafter.logits(hidden) - wanted).max() / mx.abs(wanted).max()
        assert error.item() < 1e-4


BODY = {name: GOLDEN_SHAPE[name] for name in GOLDEN_SHAPE if name != "target_layer_ids"}
WINDOW = {**CASES["sliding"], "layer_types": list(CASES["sliding"]["layer_types"])}
REPACKED = {
    "causal": BODY
    | {
        "architectures": ["DFlashDraftModel"],
        "eagle_aux_hidden_state_layer_ids": [2, 4, 6],
        "dflash_config": {"causal": True, "use_swa": False},
    },
    "sliding": BODY
    | WINDOW
    | {"model_type": "muse_glimmer_assistant", "target_layer_ids": [1, 3, 5]},
    "plain": {
        "speculators_model_type": "dflash",
        "transformer_layer_config": {
            k: v for k, v in BODY.items() if k not in ("block_size", "mask_token_id")
        },
        "block_size": 6,
        "mask_token_id": 49,
        "aux_hidden_state_layer_ids": [2, 4, 6],
    },
}


def test_a_repacked_dflash2_computes_the_same(tmp_path):
    arrays = mx.load(str(GOLDEN / "dflash2.safetensors"))
    weights = golden_weights(arrays, "full")
    tables = {"embed_tokens": "embed", "lm_head": "head"}
    weights |= {f"{k}.weight": arrays[f"full.{v}"] for k, v in tables.items()}
    config = REPACKED["plain"] | {"speculators_model_type": "dflash2"}
    config |= {k: v for k, v in EXTRAS.items() if k != "is_causal"}
    drafter = load_drafter(write(tmp_path, config, weights))
    equals_golden(arrays, "full.", drafter, 5)


@pytest.mark.parametrize("case", REPACKED)
def test_other_packagings_of_dflash_compute_the_same(case, tmp_path):
    arrays = mx.load(str(GOLDEN / "dflash_v1.safetensors"))
    weights = golden_weights(arrays, case)
    if case == "sliding":
        weights["encoder.fc.weight"] = weights.pop("fc.weight")
    if case == "plain":
        tables = {"embed_tokens": "embed", "lm_head": "head"}
        weights |= {f"{k}.weight": arrays[f"{case}.{v}"] for k, v in tables.items()}
    drafter = load_drafter(write(tmp_path, REPACKED[case], weights))
    assert drafter.taps == (1, 3, 5)
    equals_golden(arrays, f"{case}.", drafter, 5)


def test_laguna_equals_the_published_drafter(tmp_path):
    arrays = mx.load(str(GOLDEN / "laguna.safetensors"))
    weights = {
        k.removeprefix("weights."): v for k, v in arrays.items() if "weights." in k
    }
    drafter = load_drafter(write(tmp_path, LAGUNA, weights))
    equals_golden(arrays, "", drafter, 5)
