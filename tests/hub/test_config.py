"""A target's config.json: what may be missing, what is refused, how long a text is."""

import json

import pytest

from dflash_mlx.errors import ConfigError
from dflash_mlx.hub.config import context_length, read_config
from tests.equipment.tiny import write

GEMMA = {
    "model_type": "gemma3",
    "text_config": {"hidden_size": 2560, "num_hidden_layers": 34},
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_positions": 1024}


@pytest.mark.parametrize("config", (GEMMA, GPT2, {"model_type": "dbrx", "d_model": 9}))
def test_sizes_under_other_names_or_by_default_are_not_missing(tmp_path, config):
    assert read_config(write(tmp_path, config)) == config


def test_a_config_without_a_model_type(tmp_path):
    with pytest.raises(ConfigError, match="has no model_type.*a language model"):
        read_config(write(tmp_path, {"hidden_size": 9}))


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        (None, 64),
        ({"rope_type": "default"}, 64),
        ({"type": "linear", "factor": 4.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 128),
        ({"rope_type": "yarn", "factor": 4.0}, 256),
        (
            {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            128,
        ),
        # The longest text is the extended one already.
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 4,
            },
            64,
        ),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 64,
            },
            512,
        ),
        ({"type": "longrope", "original_max_position_embeddings": 8}, 64),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.25}, 64),
    ],
)
@pytest.mark.parametrize("field", ("rope_scaling", "rope_parameters"))
def test_a_scaling_of_positions_extends_the_longest_text(rope, length, field):
    text = {"max_position_embeddings": 64, field: rope}
    assert context_length(text) == length
    assert context_length({"text_config": text}) == length
    nested = {field: {"full_attention": rope or {}, "sliding_attention": {}}}
    assert context_length(text | nested) == length


def test_qwens_yarn_and_gpt2s_positions():
    yarn = {"rope_type": "yarn", "factor": 4.0}
    yarn |= {"original_max_position_embeddings": 32768}
    qwen = {"max_position_embeddings": 40960, "rope_scaling": yarn}
    assert context_length(qwen) == 131072
    assert context_length(GPT2) == 1024 and context_length(GEMMA) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rope_scaling", "yarn", "rope_scaling in .*must be an object, but is 'yarn'"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling in .* yarn, .* factor"),
        ("rope_scaling", {"type": "linear", "factor": "4"}, "factor is '4'"),
        ("rope_parameters", [3], "rope_parameters in .* must be an object"),
        ("max_position_embeddings", "long", "max_position_embeddings in .* integer"),
        ("text_config", 3, "text_config in .* must be an object"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path, field, value, words):
    config = {"model_type": "qwen3", field: value}
    with pytest.raises(ConfigError, match=words):
        read_config(write(tmp_path, config))


def test_a_drafter_in_place_of_its_target(folder):
    config = json.loads((folder / "drafter" / "config.json").read_text())
    for fields in (config, {"model_type": "x", "architectures": ["DFlashDraftModel"]}):
        with pytest.raises(ConfigError, match="holds a drafter.*--draft"):
            read_config(write(folder / "other", fields))
