"""Loading: the checks before weights are read, and errors of broken folders."""

import copy
import json
from dataclasses import fields
from importlib import import_module

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import gemma3
from tokenizers import Tokenizer, decoders, models

from dflash_mlx import Pair, device, load, load_drafter, stream_generate
from dflash_mlx.errors import (
    ConfigError,
    MissingFilesError,
    NotEnoughMemoryError,
    OptionError,
    PairError,
    UnsupportedError,
    WeightsError,
)
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.loading import check_numbers, check_pair
from dflash_mlx.models.drafters import save_folder
from dflash_mlx.models.drafters.config import DFlashConfig
from dflash_mlx.speculation.costs import ASSUMED
from dflash_mlx.tuning import calibrate, draft_dtype
from tests.equipment import architectures
from tests.equipment.folders import change_json, copy_tiny
from tests.equipment.tiny import make_drafter


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded pair."""
    return copy_tiny(tmp_path / "tiny")


def test_the_embedded_pair_is_the_default():
    pair, tokenizer = load()
    assert pair.drafter is not None and pair.target.num_layers == 6
    assert tokenizer.eos_token_ids == {2}
    assert sum(f.stat().st_size for f in TINY_FOLDER.rglob("*") if f.is_file()) < 6e6


def test_no_drafter_on_request(folder):
    pair, _ = load(str(folder), "none")
    assert pair.drafter is None and pair.reason == "drafting is off"


def test_a_load_measures_only_what_the_user_allows(monkeypatch):
    def measure(*arguments, **options):
        raise AssertionError("measured")

    monkeypatch.setattr(calibrate, "measure", measure)
    monkeypatch.setattr(calibrate, "parse_curve", lambda entry: None)
    monkeypatch.setattr(device, "native_bfloat16", lambda: False)
    monkeypatch.setattr(draft_dtype, "measure", measure)
    monkeypatch.setattr(draft_dtype, "dtype_key", lambda pair: "a new pair")
    pair, _ = load("tiny", calibration=False, wired=False)
    assert pair.history.costs.curve.assumed and not pair.wire
    assert pair.drafter.dtype == mx.float32
    with pytest.raises(AssertionError, match="measured"):
        load("tiny")


def test_what_a_load_measures_is_wired(mac, monkeypatch):
    limits = []

    def measure(pair, **_):
        limits.append(mac.wired)
        return ASSUMED

    monkeypatch.setattr(device, "runs_on_metal", lambda: True)
    monkeypatch.setattr(calibrate, "measure", measure)
    monkeypatch.setattr(calibrate, "parse_curve", lambda entry: None)
    pair, _ = load("tiny", kernels="off")
    assert limits == [device.wired_bytes(pair.model, pair.drafter)] and not mac.wired
    load("tiny", kernels="off", wired=False)
    assert limits[1:] == [0]


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
        ({"hidden_size": 2560}, "hidden_size is 2560, not 4096"),
        ({"num_target_layers": 32}, "num_layers is 32, not 36"),
        ({"vocab_size": 248320}, "vocab_size is 248320, not 151936"),
        ({"mask_token_id": 151936}, "mask_token_id 151936 is outside"),
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
    with pytest.raises(PairError, match="hidden_size is 64, not 192"):
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


def test_a_config_without_a_field_of_the_architecture(folder):
    change_json(folder / "config.json", rms_norm_eps=None)
    with pytest.raises(ConfigError, match="rms_norm_eps"):
        load(str(folder))


def test_an_architecture_that_mlx_lm_lacks(folder):
    change_json(folder / "config.json", model_type="nonesuch")
    with pytest.raises(WeightsError, match="nonesuch"):
        load(str(folder))


def test_too_little_memory_is_an_error_before_the_load(monkeypatch):
    monkeypatch.setattr(device, "memory_bytes", lambda: 2**20)
    with pytest.raises(NotEnoughMemoryError, match="GiB for the target"):
        load("tiny")


@pytest.mark.slow
def test_quantization_at_load():
    pair, _ = load("tiny", quantize=4, draft_quantize=8)
    assert isinstance(pair.model.layers[0].mlp.up_proj, nn.QuantizedLinear)
    assert pair.drafter.layers[0].mlp.up_proj.bits == 8
    with pytest.raises(OptionError):
        load("tiny", quantize=5)


def test_a_folder_without_adapters(tmp_path):
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
    change_json(folder / "config.json", num_hidden_layers=layers)
    with pytest.raises(WeightsError, match=r"layers\.[56]"):
        load(str(folder))


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


@pytest.mark.slow
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


def test_a_folder_with_brackets_in_its_name(tmp_path):
    folder = copy_tiny(tmp_path / "[fp16] tiny *?")
    assert load(str(folder))[0].drafter is not None


def test_a_path_object(folder):
    assert load(folder, folder / "drafter")[0].drafter is not None


def test_an_adapter_of_peft(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    with pytest.raises(WeightsError, match="library PEFT.*merge_and_unload"):
        load("tiny", adapter_path=str(tmp_path))


def test_a_quantization_without_its_method(folder):
    (folder / "hf_quant_config.json").write_text('{"quantization": {}}')
    with pytest.raises(ConfigError, match=r"hf_quant_config\.json has no quant_method"):
        load(str(folder))


def test_a_value_of_a_wrong_type_is_an_error_of_the_config(folder):
    change_json(folder / "config.json", quantization="4bit")
    with pytest.raises(ConfigError, match=r"config\.json has a value that mlx-lm ref"):
        load(str(folder))


def test_a_drafter_is_checked_against_the_model_where_the_config_is_silent(
    folder, tmp_path
):
    """Gemma 3's config.json has no vocab_size."""
    model = architectures.build("gemma3")
    config = architectures.config_of("gemma3")
    config.pop("vocab_size"), config["text_config"].pop("vocab_size")
    args = gemma3.ModelArgs.from_dict(copy.deepcopy(config))
    assert args.vocab_size != 96
    target = Pair.of(model, None, config).target
    assert target.numbers == {"hidden_size": 64, "num_layers": 4, "vocab_size": 96}
    check_pair(config, make_drafter(hidden_size=64, num_target_layers=4).config)
    with pytest.raises(PairError, match="vocab_size is 97, not 96"):
        check_numbers(target.numbers, make_drafter(num_target_layers=4).config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    (
        "gpt2",
        "gptj",
        "gpt_bigcode",
        "dbrx",
        "openelm",
        "exaone",
        "lille-130m",
        "longcat_flash",
    ),
)
def test_a_family_with_its_own_names_of_sizes(family, folder):
    kind = import_module(f"mlx_lm.models.{family}").ModelArgs
    names = {field.name for field in fields(kind)} | {"model_type"}
    config = {k: v for k, v in architectures.config_of(family).items() if k in names}
    weights = dict(tree_flatten(architectures.build(family).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": family}))
    pair, tokenizer = load(str(folder))
    assert pair.drafter is None and pair.reason == "no drafter is known for this model"
    assert pair.target.numbers["vocab_size"] == 96
    answer = stream_generate(pair, tokenizer, list(range(9)), max_tokens=4)
    assert len(list(answer)) == 4


def test_a_sentencepiece_tokenizer_whose_ids_have_gaps(folder):
    words = ["▁a", "b", "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|mask|>"]
    vocab = {word: 3 * i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="b"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    pair, read = load(str(folder), "none")
    assert read.eos_token_ids == {2, 6}  # the config's, and the tokenizer's
    answer = stream_generate(pair, read, [0, 3], max_tokens=3)
    assert [response.finish_reason for response in answer][-1] is not None
