"""A mistake in a config.json is an error that names the file and the field."""

import copy

import pytest

from dflash_mlx.errors import ConfigError, DFlashError
from dflash_mlx.models.drafters import build_drafter, read_config
from dflash_mlx.models.drafters.weights import quantized_bits
from tests.equipment.tiny import write
from tests.models.drafters.published import CONFIGS, small

# Fields that are optional in some packaging, or that it does not read.
OPTIONAL = {
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
DEFAULTS = {  # the classes of the packaging have defaults
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
    # The shifted taps are enough.
    "nvidia-dflash": {"target_layer_ids", "num_target_layers"},
    "laguna": {"target_layer_ids"},
}


def fields_of(config: dict):
    """(name of the inner dict or "", field) for every field."""
    for field, value in config.items():
        if field in ("dflash_config", "transformer_layer_config"):
            yield from ((field, inner) for inner in value)
        else:
            yield "", field


def required_fields(name: str):
    optional = OPTIONAL | DEFAULTS.get(name, set())
    found = [(at, f) for at, f in fields_of(CONFIGS[name]) if f not in optional]
    return [(at, f) for at, f in found if value_at(name, at, f) is not None]


def value_at(name: str, at: str, field: str):
    return (CONFIGS[name][at] if at else CONFIGS[name])[field]


REQUIRED = [
    (name, at, field) for name in CONFIGS for at, field in required_fields(name)
]


@pytest.mark.parametrize(("name", "at", "field"), REQUIRED)
def test_a_field_missing_moved_or_contradicted_is_named(name, at, field, tmp_path):
    def changed(change):
        config = copy.deepcopy(CONFIGS[name])
        change(config, config[at] if at else config)
        return write(tmp_path, config)

    # Without rope_parameters only the base is missing.
    word = "rope_theta" if field == "rope_parameters" else field
    with pytest.raises(ConfigError, match=rf"config\.json .*{word}"):
        read_config(changed(lambda config, place: place.pop(field)))

    def moved(config, place):
        config["text_config"] = {field: place.pop(field)}

    with pytest.raises(ConfigError, match=word):
        read_config(changed(moved))

    def contradicted(config, place):
        value = place[field]
        other = value[:-1] if isinstance(value, list) else value
        other = {"rope_theta": 3.0} if isinstance(value, dict) else other
        other = value + 1 if isinstance(value, int | float) else other
        other = value + "s" if isinstance(value, str) else other
        where = "dflash_config" if at != "dflash_config" else None
        (config.setdefault(where, {}) if where else config)[field] = other

    with pytest.raises(ConfigError, match=rf"{word}.* (and|but) |sets {word}") as error:
        read_config(changed(contradicted))
    assert error.value.hint


@pytest.mark.parametrize("name", CONFIGS)
def test_unknown_fields_are_refused_if_they_are_meaningful(name, tmp_path):
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
    # A target with its own draft heads is not a drafter.
    with pytest.raises(ConfigError, match="DeepseekV4"):
        target = {"architectures": ["DeepseekV4ForCausalLM"], "dspark_block_size": 5}
        read_config(write(tmp_path, target))


BAD = ("x", -1, 0, 1.5, True, [], [None], [[]], {}, {"a": 1}, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_config_ends_in_a_traceback(name, tmp_path):
    """Every field, in nested dicts too, with values of every kind: a DFlashError, or a
    config from which a drafter can be built."""

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
                packed = quantized_bits(tmp_path)
            except DFlashError:
                continue
            if spot[-1] not in ("block_size", "max_position_embeddings"):
                build_drafter(found)
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
def test_rope_errors_name_the_parameter(rope, word, tmp_path):
    config = CONFIGS["z-lab-dflash-first"] | {"rope_parameters": rope}
    with pytest.raises(ConfigError, match=word):
        read_config(write(tmp_path, config))
    both = CONFIGS["z-lab-dflash-second"] | {"rope_scaling": {"type": "yarn"}}
    with pytest.raises(ConfigError, match="rope_scaling"):
        read_config(write(tmp_path, both))
