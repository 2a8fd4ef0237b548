"""Names and folders to pairs: aliases, the Hub's stand-in, checks before weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import device, load, load_drafter
from dflash_mlx.errors import (
    ConfigError,
    DFlashError,
    MissingFilesError,
    NotEnoughMemoryError,
    OptionError,
    PairError,
    UnknownModelError,
    UnsupportedError,
    WeightsError,
)
from dflash_mlx.hub import registry
from dflash_mlx.hub.find import TINY_FOLDER, find_drafter
from dflash_mlx.loading import check_pair
from dflash_mlx.models.drafters import save_folder
from dflash_mlx.models.drafters.config import DFlashConfig
from tests.equipment.hub_server import Hub
from tests.equipment.tiny import make_drafter


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded pair to break."""
    shutil.copytree(TINY_FOLDER, tmp_path / "tiny")
    return tmp_path / "tiny"


def change(file: Path, **fields):
    config = json.loads(file.read_text())
    config.update(fields)
    config = {k: v for k, v in config.items() if v is not None}
    file.write_text(json.dumps(config))


def test_the_embedded_pair_is_the_default():
    pair, tokenizer = load()
    assert pair.drafter is not None and pair.target.num_layers == 6
    assert tokenizer.eos_token_ids == {2}
    assert sum(f.stat().st_size for f in TINY_FOLDER.rglob("*") if f.is_file()) < 6e6


def test_a_copy_under_another_name_finds_its_drafter(folder):
    pair, _ = load(str(folder))
    assert pair.drafter is not None and not pair.reason


def test_no_drafter_when_told_so(folder):
    pair, _ = load(str(folder), "none")
    assert pair.drafter is None and pair.reason == "drafting is off"


def test_an_unknown_target_decodes_plainly_and_says_why(folder):
    change(folder / "config.json", num_hidden_layers=5)
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {k: v for k, v in weights.items() if "layers.5." not in k}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    pair, _ = load(str(folder))
    assert pair.drafter is None
    assert pair.reason == "no drafter is known for this model"


def test_unknown_aliases_name_the_nearest():
    with pytest.raises(UnknownModelError, match="Did you mean qwen3-8b"):
        load("qwen3_8b")
    with pytest.raises(UnknownModelError, match="no folder"):
        load("./nowhere")


def test_every_alias_resolves_and_names_are_unique():
    entries = registry.targets()
    assert len({e.alias for e in entries}) == len(entries) > 20
    assert all(registry.resolve(e.alias) == e.model for e in entries)
    assert all(e.drafters for e in entries)


@pytest.mark.parametrize(
    ("numbers", "name", "aliases"),
    [
        (("qwen3", 4096, 36, 151936), "somebody/finetune-6bit", ["qwen3-8b"]),
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


def test_several_candidates_are_told():
    config = {
        "model_type": "qwen3_5",
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "vocab_size": 248320,
    }
    path, reason = find_drafter(config, "a/finetune", Path("finetune"), None)
    assert path is None and "Qwen3.8-27B" in reason and "--draft" in reason


def drafter_config(**changes) -> DFlashConfig:
    fields = vars(make_drafter().config) | {
        "hidden_size": 4096,
        "vocab_size": 151936,
        "num_target_layers": 36,
        "mask_token_id": 151669,
        "target_layer_ids": (1, 9, 17, 25, 33),
    }
    return DFlashConfig(**fields | changes)


QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 2560}, "hidden_size 2560 against 4096"),
        ({"num_target_layers": 32}, "num_layers 32 against 36"),
        ({"vocab_size": 248320}, "vocab_size 248320 against 151936"),
        ({"mask_token_id": 151936}, "mask_token_id 151936 outside"),
        ({"target_layer_ids": (1, 36)}, r"layers \[36\]"),
    ],
)
def test_pairs_that_do_not_fit(changes, words):
    check_pair(QWEN3_8B, drafter_config())
    with pytest.raises(PairError, match=words):
        check_pair(QWEN3_8B, drafter_config(**changes))


def test_the_pair_is_checked_before_weights_are_read(folder, tmp_path):
    save_folder(make_drafter(), tmp_path / "draft")
    (folder / "model.safetensors").write_bytes(b"unreadable")
    with pytest.raises(PairError, match="hidden_size 64 against 192"):
        load(str(folder), str(tmp_path / "draft"))


def test_broken_folders(folder, tmp_path):
    weights = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.3.mlp.up_proj.weight"
    lacking = {k: v for k, v in weights.items() if k != name}
    mx.save_safetensors(str(folder / "model.safetensors"), lacking)
    with pytest.raises(WeightsError, match="up_proj"):
        load(str(folder))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="cannot be read"):
        load(str(folder))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingFilesError, match=r"lacks model-1\.safetensors, model-2"):
        load(str(folder))
    (folder / "config.json").write_text("[")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ConfigError, match="not valid JSON"):
        load(str(folder))
    with pytest.raises(MissingFilesError, match=r"config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_without_a_field(folder, field):
    change(folder / "config.json", **{field: None})
    with pytest.raises(ConfigError, match=f"has no {field}"):
        load(str(folder))


def test_a_config_without_a_field_of_the_architecture(folder):
    change(folder / "config.json", rms_norm_eps=None)
    with pytest.raises(ConfigError, match="rms_norm_eps"):
        load(str(folder))


def test_an_architecture_that_mlx_lm_lacks(folder):
    change(folder / "config.json", model_type="nonesuch")
    with pytest.raises(WeightsError, match="nonesuch"):
        load(str(folder))


def test_too_little_memory_is_said_before_the_load(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnoughMemoryError, match="GiB for the target"):
        load("tiny")


def test_quantization_at_load():
    pair, _ = load("tiny", quantize=4, draft_quantize=8)
    assert isinstance(pair.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert pair.drafter.layers[0].mlp.up_proj.bits == 8
    with pytest.raises(OptionError):
        load("tiny", quantize=5)


def test_adapters(tmp_path):
    with pytest.raises(MissingFilesError, match="adapter_config"):
        load("tiny", adapter_path=str(tmp_path))


def test_caches_of_an_unknown_kind_leave_plain_decoding(folder, monkeypatch):
    from mlx_lm.models import qwen3
    from mlx_lm.models.cache import KVCache

    class NewCache(KVCache):
        pass

    def make_cache(self):
        return [NewCache() for _ in self.layers]

    monkeypatch.setattr(qwen3.Model, "make_cache", make_cache, raising=False)
    pair, _ = load(str(folder))
    assert pair.drafter is None and "NewCache" in pair.reason
    with pytest.raises(UnsupportedError, match="NewCache.*--plain"):
        load(str(folder), str(folder / "drafter"))
    assert load(str(folder), "none")[0].reason == "drafting is off"


@pytest.mark.parametrize("layers", (5, 7))
def test_a_config_whose_layers_do_not_match_its_weights(folder, layers):
    change(folder / "config.json", num_hidden_layers=layers)
    with pytest.raises(WeightsError, match=r"layers\.[56]"):
        load(str(folder))


CODE = """
import sys
from dflash_mlx import load
from dflash_mlx.errors import DFlashError
try:
    pair, _ = load(*sys.argv[1:])
    print("drafter" if pair.drafter else pair.reason)
except DFlashError as error:
    print(type(error).__name__, error)
"""


def child(endpoint: str, home: Path, *arguments: str) -> str:
    """Load in a process of its own: the Hub's address is read at import."""
    env = dict(os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(home))
    run = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env=env,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or run.stderr


def test_downloads_and_then_asks_nobody(tmp_path, folder):
    repos = {"org/tiny": folder, "org/draft": folder / "drafter"}
    with Hub(repos) as hub:
        first = child(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert first == "drafter"
        assert any(path.endswith("model.safetensors") for path in hub.seen)
        hub.seen.clear()
        again = child(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert again == "drafter" and not hub.seen
        # Half of a repository in the cache is fetched to the end.
        for file in (tmp_path / "home").rglob("model.safetensors"):
            file.unlink()
        again = child(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert again == "drafter" and hub.seen
    gone = "http://127.0.0.1:9"
    assert child(gone, tmp_path / "home", "org/tiny", "org/draft") == "drafter"


def test_what_the_hub_refuses(tmp_path):
    with Hub({}) as hub:
        told = child(hub.endpoint, tmp_path, "gated/model")
        assert told.startswith("MissingFilesError gated/model is gated.")
        told = child(hub.endpoint, tmp_path, "missing/model")
        assert "There is no repository missing/model" in told
    told = child("http://127.0.0.1:9", tmp_path, "some/model")
    assert "some/model is not in the local cache" in told and "folder" in told


def test_errors_carry_a_next_step():
    with pytest.raises(DFlashError) as caught:
        load("qwen3")
    assert caught.value.hint and caught.value.exit_code == 2


def test_broken_tokenizers_and_indices(folder):
    index = folder / "model.safetensors.index.json"
    for text in ("{", "[]", "{}"):
        index.write_text(text)
        with pytest.raises(ConfigError, match="not a valid index of weights"):
            load(str(folder))
    index.unlink()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="tokenizer"):
        load(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(MissingFilesError, match="no tokenizer"):
        load(str(folder))


@pytest.mark.parametrize(
    "config",
    ["[]", '{"text_config": 3}', '{"vocab_size": "many"}', '{"model_type": 3}'],
)
def test_configs_of_the_wrong_kinds(folder, config):
    file = folder / "config.json"
    changed = json.loads(config)
    if isinstance(changed, dict):
        changed = json.loads(file.read_text()) | changed
        if "text_config" in changed:
            changed.pop("hidden_size")
    file.write_text(json.dumps(changed))
    with pytest.raises(ConfigError):
        load(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"dflash_config": 3},
        {"dflash_config": {"target_layer_ids": ["a"]}},
        {"dflash_config": {"target_layer_ids": []}},
        {"dflash_config": {"block_size": 0}},
        {"num_attention_heads": 0},
        {"rope_parameters": 3},
    ],
)
def test_drafter_configs_of_the_wrong_kinds(folder, change):
    file = folder / "drafter" / "config.json"
    config = json.loads(file.read_text())
    nested = change.get("dflash_config")
    if isinstance(nested, dict):
        change = {"dflash_config": config["dflash_config"] | nested}
    file.write_text(json.dumps(config | change))
    with pytest.raises(ConfigError):
        load_drafter(folder / "drafter")


def test_a_quantized_model_is_not_quantized_again(folder):
    from mlx_lm.utils import load_model, quantize_model

    model, config = load_model(folder)
    model, config = quantize_model(model, config, group_size=64, bits=4)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    assert load(str(folder))[0].drafter is not None
    with pytest.raises(OptionError, match="already quantized"):
        load(str(folder), quantize=4)


def test_an_alias_names_its_drafter_too():
    assert registry.resolve_drafter("qwen3-8b") == "z-lab/Qwen3-8B-DFlash-b16"
    assert registry.resolve_drafter("a/b") == "a/b"
    assert load("tiny", "tiny")[0].drafter is not None


def test_a_found_drafter_that_does_not_run_leaves_plain_decoding(folder):
    change(folder / "drafter" / "config.json", dspark_bonus_anchor=True)
    with pytest.raises(ConfigError, match="dspark_bonus_anchor"):
        load(str(folder), str(folder / "drafter"))
    from dflash_mlx.hub import find

    before, find.TINY_FOLDER = find.TINY_FOLDER, folder
    try:
        pair, _ = load("tiny")
    finally:
        find.TINY_FOLDER = before
    assert pair.drafter is None and "dspark_bonus_anchor" in pair.reason
