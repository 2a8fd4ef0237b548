"""The folder of a target, its config.json, and its drafter."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_mlx import load
from dflash_mlx.errors import ConfigError
from dflash_mlx.hub import find
from tests.equipment.folders import change_json


def test_a_copy_of_the_embedded_target_finds_its_drafter(folder):
    pair, _ = load(str(folder))
    assert pair.drafter is not None and not pair.reason


def test_an_unknown_target_gives_the_reason_for_plain_decoding(folder):
    change_json(folder / "config.json", num_hidden_layers=5)
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {k: v for k, v in weights.items() if "layers.5." not in k}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    pair, _ = load(str(folder))
    assert pair.drafter is None
    assert pair.reason == "no drafter is known for this model"


def test_the_reason_names_several_candidates():
    config = {
        "model_type": "qwen3_5",
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "vocab_size": 248320,
    }
    path, reason = find.find_drafter(config, "a/finetune", Path("finetune"), None)
    assert path is None and "Qwen3.8-27B" in reason and "--draft" in reason


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_that_lacks_a_field(folder, field):
    change_json(folder / "config.json", **{field: None})
    with pytest.raises(ConfigError, match=f"has no {field}"):
        load(str(folder))


@pytest.mark.parametrize(
    "config",
    ["[]", '{"text_config": 3}', '{"vocab_size": "many"}', '{"model_type": 3}'],
)
def test_a_config_with_a_wrong_type(folder, config):
    file = folder / "config.json"
    changed = json.loads(config)
    if isinstance(changed, dict):
        changed = json.loads(file.read_text()) | changed
        if "text_config" in changed:
            changed.pop("hidden_size")
    file.write_text(json.dumps(changed))
    with pytest.raises(ConfigError):
        load(str(folder))


def test_a_found_drafter_that_cannot_be_used_is_left_out(folder, monkeypatch):
    change_json(folder / "drafter" / "config.json", dspark_bonus_anchor=True)
    with pytest.raises(ConfigError, match="dspark_bonus_anchor"):
        load(str(folder), str(folder / "drafter"))
    monkeypatch.setattr(find, "TINY_FOLDER", folder)
    pair, _ = load("tiny")
    assert pair.drafter is None and "dspark_bonus_anchor" in pair.reason
