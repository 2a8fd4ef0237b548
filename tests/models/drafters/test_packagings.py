"""Every packaging: its real numbers are read, its tensors decode, its errors name.

The real config.json of each stands in golden/configs. Its numbers are read as they
are; for tensors the sizes are cut down, and everything else stays.
"""

import copy
import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, Sampling, load_drafter
from dflash_mlx.convert import Changes, convert
from dflash_mlx.errors import ConfigError, DFlashError, WeightsError
from dflash_mlx.models.drafters import make, packagings, read_config
from dflash_mlx.models.drafters.checkpoint import packed_bits
from dflash_mlx.models.drafters.config import DFlash2Config, DFlashConfig, DSparkConfig
from dflash_mlx.models.drafters.packaging import with_tensors
from tests.equipment.tiny import (
    VOCAB,
    golden_weights,
    make_model,
    randomize_weights,
    reference,
    run,
    some_prompt,
    write,
)
from tests.golden.make_dflash2 import EXTRAS
from tests.golden.make_dflash_v1 import CASES, ROUNDS
from tests.golden.make_dflash_v1 import SHAPE as GOLDEN_SHAPE
from tests.golden.make_laguna import CONFIG as LAGUNA

GOLDEN = Path(__file__).parents[2] / "golden"
CONFIGS = {
    file.stem: json.loads(file.read_text())
    for file in sorted((GOLDEN / "configs").glob("*.json"))
}
# What each comes to: packaging, kind, drafts per block, taps, in-block mask.
READ = {
    "z-lab-dflash-first": ("z-lab DFlash", DFlashConfig, 15, 1, None),
    "z-lab-dflash-second": ("z-lab DFlash", DFlashConfig, 15, 1, None),
    "z-lab-dflash-sliding": ("z-lab DFlash", DFlashConfig, 15, 1, None),
    "z-lab-dflash2": ("z-lab DFlash 2", DFlash2Config, 7, 5, False),
    "nvidia-dflash": ("NVIDIA DFlash", DFlashConfig, 7, 1, True),
    "nvidia-dspark": ("NVIDIA DSpark", DSparkConfig, 7, 1, True),
    "deepspec": ("DeepSpec", DSparkConfig, 7, 1, None),
    "deepspec-gemma4": ("Gemma 4 DSpark", DSparkConfig, 7, 5, None),
    "deepspec-qwen35": ("Qwen3.5 DSpark", DSparkConfig, 7, 1, None),
    "bonsai": ("DeepSpec", DSparkConfig, 7, 1, None),
    "specforge": ("SpecForge DSpark", DSparkConfig, 7, 1, None),
    "liquid": ("LiquidAI DSpark", DSparkConfig, 9, 1, None),
    "speculators-dflash": ("speculators dflash", DFlashConfig, 7, 1, None),
    "speculators-dflash2": ("speculators dflash2", DFlash2Config, 7, 1, False),
    "speculators-dspark": ("speculators dspark", DSparkConfig, 8, 3, None),
    "laguna": ("Laguna", DFlashConfig, 15, 1, True),
    "muse": ("the Muse assistant", DFlashConfig, 15, 1, None),
}
# Which tables the checkpoints bring: embedding, head.
TABLES = {
    "nvidia-dspark": (True, False),
    "deepspec": (True, True),
    "deepspec-gemma4": (True, True),
    "deepspec-qwen35": (True, True),
    "speculators-dflash": (True, True),
    "speculators-dflash2": (True, True),
    "speculators-dspark": (True, True),
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 32,
    "vocab_size": VOCAB,
    "num_target_layers": 4,
    "mask_token_id": VOCAB - 1,
    "markov_rank": 12,
    "selector_rank": 8,
    "sliding_window": 13,
    "rope_theta": 10000.0,
    "target_layer_ids": [0, 2],
    "aux_hidden_state_layer_ids": [1, 3],
    "eagle_aux_hidden_state_layer_ids": [1, 3],
}
REDUCED = 40


def small(config: dict) -> dict:
    """A config with its sizes cut down, wherever they stand."""
    found = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found[name] = small(value)
        elif name == "layer_types":
            found[name] = [value[0], value[-1]]
        elif name == "draft_vocab_size":
            found[name] = REDUCED if value == 32000 else VOCAB
        else:
            found[name] = SMALL.get(name, value) if value is not None else None
    return found


def as_published(name: str, weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Our tensors under the names and in the form of a packaging."""
    found = dict(weights)
    if name == "deepspec-qwen35":
        found |= {k: v - 1 for k, v in weights.items() if k.endswith("norm.weight")}
    if name == "muse":
        found["encoder.fc.weight"] = found.pop("fc.weight")
        found["encoder.output_norm_enc.weight"] = found.pop("hidden_norm.weight")
    if name == "laguna":
        for i in range(2):
            at = f"layers.{i}.self_attn."
            parts = [found.pop(f"{at}{part}_proj.weight") for part in "qkv"]
            found[f"{at}qkv_proj.weight"] = mx.concatenate(parts)
    if "d2t" in found:
        ids = mx.arange(REDUCED) * 2
        marks = mx.zeros((VOCAB,), mx.bool_)
        marks[ids] = True
        found |= {"d2t": ids - mx.arange(REDUCED), "t2d": marks}
    return found


def checkpoint(folder: Path, name: str) -> Path:
    """A small checkpoint of a packaging, random."""
    config = small(CONFIGS[name])
    tables = TABLES.get(name, (False, False))
    names = ["confidence_head.proj.weight"]
    for table, there in zip(("embed_tokens", "lm_head"), tables, strict=True):
        names += [f"{table}.weight"] if there else []
    read = read_config(write(folder, config))
    mx.random.seed(11)
    drafter = randomize_weights(make(with_tensors(read, names)), "float32")
    weights = dict(tree_flatten(drafter.parameters()))
    for key in ("markov_head.markov_w2.weight", "layers.0.mlp_conv.base_kernel"):
        if key in weights:  # untrained they change nothing
            weights[key] = mx.random.normal(weights[key].shape) * 0.3
    return write(folder, config, as_published(name, weights))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_published_numbers_are_read(name, tmp_path):
    reading = packagings.read(write(tmp_path, CONFIGS[name]))
    config, (packaging, kind, drafts, tap, causal) = reading.config, READ[name]
    assert (reading.packaging, type(config)) == (packaging, kind)
    assert config.block_size - config.first_draft_row == drafts
    assert config.target_layer_ids[0] == tap and config.is_causal is causal
    shape = CONFIGS[name].get("transformer_layer_config", CONFIGS[name])
    for field in ("hidden_size", "intermediate_size", "vocab_size", "rms_norm_eps"):
        assert getattr(config, field) == shape[field]
    assert any(f"{drafts} drafts" in note for note in reading.notes)
    # What is written in our own form is read back the same.
    assert read_config(write(tmp_path, config.to_json())) == config


def test_what_published_fields_come_to(tmp_path):
    def read(name):
        return read_config(write(tmp_path, CONFIGS[name]))

    assert read("nvidia-dflash").rope_scaling["factor"] == 128
    assert read("nvidia-dspark").sliding_window == 1024
    assert read("nvidia-dspark").attention_sink_bias
    # DeepSpec's copies of the target's fields are not read; Qwen3.5's own are.
    assert (
        read("deepspec").partial_rotary_factor == 1 and not read("deepspec").layer_types
    )
    assert read("deepspec-qwen35").partial_rotary_factor == 0.25
    assert read("deepspec-qwen35").attention_gate == "per-element"
    gemma = read("deepspec-gemma4")
    assert (gemma.head_dim, gemma.num_key_value_heads) == (512, 1)
    assert gemma.input_embedding_scale == 3840**0.5
    assert read("specforge").rope_scaling["rope_type"] == "yarn"
    assert not read("liquid").rope_is_neox_style
    assert read("speculators-dflash").target_layer_ids == (1, 9, 17, 25, 33)
    assert read("speculators-dflash").draft_vocab_size == 32000
    assert read("speculators-dflash2").draft_vocab_size is None
    assert read("speculators-dspark").window_from_anchor
    assert read("laguna").attention_gate == "per-head" and read("laguna").norm_taps


@pytest.mark.parametrize("name", CONFIGS)
def test_its_tensors_decode_exactly_and_round_trip(name, tmp_path):
    folder = checkpoint(tmp_path / "published", name)
    drafter = load_drafter(folder)
    model, prompt = make_model("qwen3"), some_prompt(30)
    pair = Pair.of(model, drafter, None)
    assert run(pair, prompt, 40) == reference(model, prompt, 40)
    sampling = Sampling(temp=1.0, top_p=0.9, seed=4, repetition_penalty=1.1)
    plain = run(Pair.of(model), prompt, 25, sampling=sampling)
    for width in (None, 3):
        assert run(pair, prompt, 25, sampling=sampling, block_size=width) == plain
    convert(folder, tmp_path / "ours")
    again = load_drafter(tmp_path / "ours")
    assert again.config == drafter.config
    ours = dict(tree_flatten(again.parameters()))
    theirs = dict(tree_flatten(drafter.parameters()))
    assert ours.keys() == theirs.keys()
    assert all(mx.array_equal(ours[key], theirs[key]) for key in ours)
    convert(folder, tmp_path / "packed", Changes(8))
    packed = Pair.of(model, load_drafter(tmp_path / "packed"))
    assert run(packed, prompt, 12) == reference(model, prompt, 12)


# Fields whose absence is the rule in a packaging, or that it does not read.
SPARE = {
    *("architectures", "model_type", "hidden_act", "hidden_activation", "dtype"),
    *(
        "attention_bias",
        "tie_word_embeddings",
        "max_position_embeddings",
        "eos_token_id",
    ),
    *("num_key_value_heads", "head_dim", "rope_scaling", "use_sliding_window"),
    *("max_window_layers", "num_anchors", "attn_output_gate", "linear_num_key_heads"),
    *("layer_types", "is_causal", "has_embed_tokens", "has_lm_head", "projector_type"),
    *("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"),
    *("final_logit_softcapping", "enable_qwen35_gated_q_proj", "rope_is_neox_style"),
    *("log_snr_conditioning", "dflash_query_causal", "attention_sink_bias", "use_swa"),
    *("sample_from_anchor", "sliding_window_non_causal", "draft_vocab_size"),
    *("markov_rank", "markov_head_type", "enable_confidence_head", "causal"),
    *("confidence_head_with_markov", "eagle_aux_hidden_state_layer_ids"),
    *("speculators_model_type", "speculators_version", "speculators_config"),
    *("algorithm", "default_proposal_method", "proposal_methods", "verifier"),
    *("target_hidden_size", "name_or_path", "eos_token_id"),
}
DEFAULTS = {  # the packaging's own classes have them
    "speculators-dflash": {"block_size"},
    "speculators-dflash2": {
        *("block_size", "conv_kernel_size", "conv_group_size"),
        *("selector_rank", "selector_top_k"),
    },
    "speculators-dspark": {"block_size"},
    "deepspec": {"num_target_layers"},
    "deepspec-qwen35": {"num_target_layers"},
    "deepspec-gemma4": {"rope_parameters", "num_target_layers"},
    "bonsai": {"num_target_layers"},
    "nvidia-dspark": {"num_target_layers", "sliding_window"},
    # The shifted taps tell.
    "nvidia-dflash": {"target_layer_ids", "num_target_layers"},
    "laguna": {"target_layer_ids"},
}


def places(config: dict):
    """(path to the dict, field) of every needed field."""
    for field, value in config.items():
        if field in ("dflash_config", "transformer_layer_config"):
            yield from ((field, inner) for inner in value)
        else:
            yield "", field


def needed(name: str):
    spare = SPARE | DEFAULTS.get(name, set())
    found = [(at, f) for at, f in places(CONFIGS[name]) if f not in spare]
    return [(at, f) for at, f in found if value_at(name, at, f) is not None]


def value_at(name: str, at: str, field: str):
    return (CONFIGS[name][at] if at else CONFIGS[name])[field]


NEEDED = [(name, at, field) for name in CONFIGS for at, field in needed(name)]


@pytest.mark.parametrize(("name", "at", "field"), NEEDED)
def test_a_field_missing_moved_or_contradicted_is_named(name, at, field, tmp_path):
    def changed(change):
        config = copy.deepcopy(CONFIGS[name])
        change(config, config[at] if at else config)
        return write(tmp_path, config)

    # Without rope_parameters the base alone is missed; without a window, it.
    said = "rope_theta" if field == "rope_parameters" else field
    with pytest.raises(ConfigError, match=rf"config\.json .*{said}"):
        read_config(changed(lambda config, place: place.pop(field)))

    def moved(config, place):
        config["text_config"] = {field: place.pop(field)}

    with pytest.raises(ConfigError, match=said):
        read_config(changed(moved))

    def contradicted(config, place):
        value = place[field]
        other = value[:-1] if isinstance(value, list) else value
        other = {"rope_theta": 3.0} if isinstance(value, dict) else other
        other = value + 1 if isinstance(value, int | float) else other
        other = value + "s" if isinstance(value, str) else other
        where = "dflash_config" if at != "dflash_config" else None
        (config.setdefault(where, {}) if where else config)[field] = other

    with pytest.raises(ConfigError, match=rf"{said}.* (and|but) |sets {said}") as error:
        read_config(changed(contradicted))
    assert error.value.hint


@pytest.mark.parametrize("name", CONFIGS)
def test_unknown_fields_are_refused_where_they_mean_something(name, tmp_path):
    def changed(at, **fields):
        config = copy.deepcopy(CONFIGS[name])
        (config.setdefault(at, {}) if at else config).update(fields)
        return write(tmp_path, config)

    with pytest.raises(ConfigError, match="something_new"):
        read_config(changed("dflash_config", something_new=3))
    fields = {"dspark_bonus_anchor", "selector_vocab_size"}
    if name == "nvidia-dspark":
        fields.remove("dspark_bonus_anchor")
    for field in fields:
        with pytest.raises(ConfigError, match=field):
            read_config(changed("", **{field: 1}))
    plain = read_config(changed(""))
    harmless = {"runtime_block_size": 4, "draft_window_size": 9}
    assert read_config(changed("dflash_config", **harmless)) == plain
    assert read_config(changed("", torch_dtype="bfloat16", use_cache=True)) == plain


# Golden arrays through other packagings: the same weights must compute the same.


def golden(arrays, case, drafter, drafts):
    embed, head = arrays[f"{case}embed"], arrays[f"{case}head"]
    drafter.bind(lambda ids: embed[ids], lambda h: h @ head.T)
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}{i}.features"], cache)
        wanted = arrays[f"{case}{i}.logits"]
        anchor = arrays[f"{case}{i}.anchor"]
        block = drafter.forward_block(anchor, cache, drafts + 1)
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
    golden(arrays, "full.", drafter, 5)


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
    golden(arrays, f"{case}.", drafter, 5)


def test_laguna_equals_the_published_drafter(tmp_path):
    arrays = mx.load(str(GOLDEN / "laguna.safetensors"))
    weights = {
        k.removeprefix("weights."): v for k, v in arrays.items() if "weights." in k
    }
    drafter = load_drafter(write(tmp_path, LAGUNA, weights))
    golden(arrays, "", drafter, 5)


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


def test_maps_that_contradict_each_other_are_refused(tmp_path):
    folder = checkpoint(tmp_path / "it", "speculators-dflash")
    file = folder / "model.safetensors"
    weights = mx.load(str(file))
    mx.save_safetensors(str(file), weights | {"d2t": weights["d2t"] + 1})
    with pytest.raises(WeightsError, match="d2t and t2d"):
        load_drafter(folder)
    del weights["d2t"]
    mx.save_safetensors(str(file), weights)
    with pytest.raises(WeightsError, match="lacks d2t"):
        load_drafter(folder)


@pytest.mark.parametrize(
    ("tokens", "key", "predicts"),
    [(8, None, True), (7, None, False), (None, True, True), (None, None, False)],
)
def test_what_tells_of_the_anchors_slot(tokens, key, predicts, tmp_path):
    config = copy.deepcopy(CONFIGS["speculators-dspark"])
    config["sample_from_anchor"] = key
    config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] = tokens
    assert read_config(write(tmp_path, config)).sample_from_anchor is predicts
    if tokens:
        config["sample_from_anchor"] = not predicts
        with pytest.raises(ConfigError, match="speculative_tokens"):
            read_config(write(tmp_path, config))


def test_what_cannot_run_is_refused_by_name(tmp_path):
    for change, word in (
        ({"architectures": ["Eagle3Speculator"]}, "Eagle3Speculator"),
        ({"quantization_config": {"quant_method": "modelopt"}}, "modelopt"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
    ):
        config = CONFIGS["z-lab-dflash-second"] | change
        with pytest.raises(ConfigError, match=word):
            read_config(write(tmp_path, config))
    eagle = CONFIGS["speculators-dflash"] | {"speculators_model_type": "eagle3"}
    eagle["speculators_config"] = {"algorithm": "eagle3"}
    with pytest.raises(ConfigError):
        read_config(write(tmp_path, eagle))
    # A target with draft heads of its own is no drafter.
    with pytest.raises(ConfigError, match="DeepseekV4"):
        target = {"architectures": ["DeepseekV4ForCausalLM"], "dspark_block_size": 5}
        read_config(write(tmp_path, target))


BAD = ("x", -1, 0, 1.5, True, [], [None], [[]], {}, {"a": 1}, None)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_config_ends_in_a_traceback(name, tmp_path):
    """Every field, also inside dicts, with values of every kind: read, or a
    DFlashError; and what is read can be built."""

    def spots(config, path=()):
        for field, value in config.items():
            yield (*path, field)
            if isinstance(value, dict):
                yield from spots(value, (*path, field))

    source = small(CONFIGS[name])
    extra = {"quantization_config": {}, "quantization": {}, "rope_scaling": {}}
    for spot in spots(source | extra):
        for bad in BAD:
            config = copy.deepcopy(source)
            place = config
            for field in spot[:-1]:
                place = place[field]
            place[spot[-1]] = bad
            try:
                found = read_config(write(tmp_path, config))
                packed = packed_bits(tmp_path)
            except DFlashError:
                continue
            if spot[-1] not in ("block_size", "max_position_embeddings"):
                make(found)
            assert packed is None or type(packed) is int


@pytest.mark.parametrize(
    ("rope", "word"),
    [
        ({"rope_type": "yarn"}, "factor"),
        ({"rope_type": "yarn", "factor": "x"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_type": "longrope"}, "original_max_position_embeddings"),
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}, "rope_theta"),
    ],
)
def test_ropes_say_what_they_need(rope, word, tmp_path):
    config = CONFIGS["z-lab-dflash-first"] | {"rope_parameters": rope}
    with pytest.raises(ConfigError, match=word):
        read_config(write(tmp_path, config))
    both = CONFIGS["z-lab-dflash-second"] | {"rope_scaling": {"type": "yarn"}}
    with pytest.raises(ConfigError, match="rope_scaling"):
        read_config(write(tmp_path, both))


def test_rotation_of_a_part_is_the_targets_unless_it_is_ours(tmp_path):
    config = CONFIGS["z-lab-dflash-second"] | {"partial_rotary_factor": 0.25}
    assert read_config(write(tmp_path, config)).partial_rotary_factor == 1
    native = read_config(write(tmp_path, CONFIGS["deepspec-qwen35"]))
    again = read_config(write(tmp_path, native.to_json()))
    assert again.partial_rotary_factor == 0.25


def test_nvidias_words_for_the_anchors_slot(tmp_path):
    base = {k: v for k, v in CONFIGS["nvidia-dspark"].items() if "sample_" not in k}
    for change, predicts in (
        ({}, False),
        ({"dspark_bonus_anchor": True}, False),
        ({"dspark_bonus_anchor": False}, True),
        ({"dspark_bonus_anchor": True, "sample_from_anchor": False}, False),
    ):
        config = read_config(write(tmp_path, base | change))
        assert config.sample_from_anchor is predicts
    both = {"dspark_bonus_anchor": True, "sample_from_anchor": True}
    with pytest.raises(ConfigError, match="exclude each other"):
        read_config(write(tmp_path, base | both))


def test_speculators_without_windows(tmp_path):
    config = copy.deepcopy(CONFIGS["speculators-dspark"])
    config["transformer_layer_config"]["use_sliding_window"] = False
    read = read_config(write(tmp_path, config))
    assert not read.layer_types and read.sliding_window is None


def test_sinks_in_float32_go_with_a_half_precision_head(tmp_path):
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


def test_committed_rows_that_a_drafter_is_shown(tmp_path):
    """What its config says, else 4,096 for full layers; sliding ones have their own."""
    for name, window in (("z-lab-dflash-second", 4096), ("z-lab-dflash2", None)):
        folder = checkpoint(tmp_path / name, name)
        drafter = load_drafter(folder)
        assert drafter.window_limit == window
        assert load_drafter(folder, window=7).window_limit == 7
        assert load_drafter(folder, window=0).window_limit is None
    assert load_drafter("tiny").window_limit == 128
