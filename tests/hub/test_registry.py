"""The registry: aliases, and targets found by their numbers and names."""

import pytest

from dflash_mlx import load
from dflash_mlx.errors import DFlashError, UnknownModelError
from dflash_mlx.hub import registry
from dflash_mlx.terminal.download import fetch


def test_every_alias_resolves_and_names_are_unique():
    entries = registry.targets()
    assert len({e.alias for e in entries}) == len(entries) > 20
    assert all(registry.resolve(e.alias) == e.model for e in entries)
    assert all(e.drafters for e in entries)


def test_errors_name_the_closest_aliases():
    with pytest.raises(UnknownModelError, match="Did you mean qwen3-8b"):
        load("qwen3_8b")
    with pytest.raises(UnknownModelError, match="no folder"):
        load("./nowhere")


def test_errors_carry_a_next_step():
    with pytest.raises(DFlashError) as caught:
        load("qwen3")
    assert caught.value.hint and caught.value.exit_code == 2


def test_an_alias_stands_for_its_drafter_too():
    assert registry.resolve_drafter("qwen3-8b") == "z-lab/Qwen3-8B-DFlash-b16"
    assert registry.resolve_drafter("a/b") == "a/b"
    assert load("tiny", "tiny")[0].drafter is not None


@pytest.mark.parametrize(
    ("numbers", "name", "aliases"),
    [
        (("qwen3", 4096, 36, 151936), "someone/finetune-6bit", ["qwen3-8b"]),
        (("qwen3", 2560, 36, 151936), "x", ["qwen3-4b"]),
        (("qwen3_5", 5120, 64, 248320), "a/Qwen3.6-27B-8bit", ["qwen3.6-27b"]),
        (
            ("qwen3_5", 5120, 64, 248320),
            "a/finetune",
            ["qwen3.5-27b", "qwen3.6-27b", "qwen3.8-27b"],
        ),
        (("gemma4", 9, 9, 9), "a/gemma-4-31B-it-4bit", ["gemma4-31b"]),
        (("gpt2", 768, 12, 50257), "gpt2", []),
    ],
)
def test_targets_are_found_by_their_numbers(numbers, name, aliases):
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    config = dict(zip(keys, numbers, strict=True))
    assert [e.alias for e in registry.find_target(config, name)] == aliases
    nested = {"model_type": config.pop("model_type"), "text_config": config}
    assert [e.alias for e in registry.find_target(nested, name)] == aliases


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnknownModelError, match="is a file, but a model is a folder"):
        load(str(tmp_path / "model.safetensors"))
    for name in (str(tmp_path / "m.gguf"), "org/m.GGUF"):
        with pytest.raises(UnknownModelError, match="GGUF file.*safetensors"):
            load(name)


def test_an_alias_that_is_a_folder_too_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert registry.note_on_name("qwen3-8b") == ""
    (tmp_path / "qwen3-8b").mkdir()
    note = registry.note_on_name("qwen3-8b")
    assert "uses mlx-community/Qwen3-8B-4bit" in note and "./qwen3-8b" in note
    assert registry.note_on_name("./qwen3-8b") == ""
    lines = []
    (tmp_path / "tiny").mkdir()
    fetch("tiny", "none", notice=lines.append)
    assert len(lines) == 1 and "./tiny" in lines[0]


def test_a_config_that_leaves_a_number_out_can_be_a_known_target():
    config = {"model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36}
    assert [e.alias for e in registry.find_target(config)] == ["qwen3-8b"]
    assert registry.find_target({"model_type": "qwen3"}) == []
