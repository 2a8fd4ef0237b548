"""Every packaging reads its published config.json; golden/configs has them."""

import copy

import pytest

from dflash_mlx.errors import ConfigError
from dflash_mlx.models.drafters import packagings, read_config
from dflash_mlx.models.drafters.config import DFlash2Config, DFlashConfig, DSparkConfig
from tests.equipment.tiny import write
from tests.models.drafters.published import CONFIGS

# The packaging, class, drafts per block, first tap and causality that are read.
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
    # Our own config.json is read back unchanged.
    assert read_config(write(tmp_path, config.to_json())) == config


def test_fields_that_packagings_read_in_their_own_way(tmp_path):
    def read(name):
        return read_config(write(tmp_path, CONFIGS[name]))

    assert read("nvidia-dflash").rope_scaling["factor"] == 128
    assert read("nvidia-dspark").sliding_window == 1024
    assert read("nvidia-dspark").attention_sink_bias
    # DeepSpec's copies of the target's fields are ignored; Qwen3.5's own are read.
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


@pytest.mark.parametrize(
    ("tokens", "key", "predicts"),
    [(8, None, True), (7, None, False), (None, True, True), (None, None, False)],
)
def test_fields_that_decide_the_anchors_slot(tokens, key, predicts, tmp_path):
    config = copy.deepcopy(CONFIGS["speculators-dspark"])
    config["sample_from_anchor"] = key
    config["speculators_config"]["proposal_methods"][0]["speculative_tokens"] = tokens
    assert read_config(write(tmp_path, config)).sample_from_anchor is predicts
    if tokens:
        config["sample_from_anchor"] = not predicts
        with pytest.raises(ConfigError, match="speculative_tokens"):
            read_config(write(tmp_path, config))


def test_a_partial_rotation_is_the_targets_except_in_our_own_config(tmp_path):
    config = CONFIGS["z-lab-dflash-second"] | {"partial_rotary_factor": 0.25}
    assert read_config(write(tmp_path, config)).partial_rotary_factor == 1
    native = read_config(write(tmp_path, CONFIGS["deepspec-qwen35"]))
    again = read_config(write(tmp_path, native.to_json()))
    assert again.partial_rotary_factor == 0.25


def test_nvidias_fields_for_the_anchors_slot(tmp_path):
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
    with pytest.raises(ConfigError, match="opposite of the other"):
        read_config(write(tmp_path, base | both))


def test_speculators_without_windows(tmp_path):
    config = copy.deepcopy(CONFIGS["speculators-dspark"])
    config["transformer_layer_config"]["use_sliding_window"] = False
    read = read_config(write(tmp_path, config))
    assert not read.layer_types and read.sliding_window is None
