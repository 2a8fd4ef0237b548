"""Targets from a folder: vision-language exports, adapters, quantized weights."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load as mlx_lm_load
from mlx_lm.utils import quantize_model

from benchmarks import examine
from dflash_mlx import (
    Pair,
    decode,
    load,
    stream_generate,
)
from dflash_mlx.errors import PromptError
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.text.chat_template import apply_template
from tests.equipment import architectures
from tests.equipment.full import thinned
from tests.equipment.scripted import Script

MIXED = (2, 0, 5, 1, 99, 3)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write(folder, config, weights):
    """Write a model's folder, with the tokenizer of the embedded pair."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    for name in TOKENIZER:
        if (TINY_FOLDER / name).exists():
            shutil.copy(TINY_FOLDER / name, folder / name)
    return folder


def check_tokens(pair, model, prompt=(5, 9, 11, 2, 7), tokens=60):
    """Check that the pair's target, with scripted drafts, gives the model's tokens."""
    answer = examine.greedy(model, list(prompt), tokens)
    drafting = Pair.of(pair.model, Script([*prompt, *answer], MIXED))
    rounds = decode(drafting, list(prompt), max_tokens=tokens)
    assert [token for round in rounds for token in round.tokens] == answer


# The prefix of the text model's tensors in published exports, and another tensor.
EXPORTS = {
    "qwen3_5": ("model.language_model.", "model.visual.patch_embed.weight"),
    "qwen3_5_moe": ("language_model.model.", "vision_tower.blocks.0.norm1.weight"),
    "gemma4": ("model.language_model.", "model.vision_tower.patch_embed.weight"),
    "gemma3": ("language_model.model.", "vision_tower.patch_embed.weight"),
    "mistral3": ("model.language_model.", "vision_tower.patch_conv.weight"),
    "qwen3_vl": ("model.language_model.", "model.visual.patch_embed.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", EXPORTS)
def test_the_text_of_a_vision_language_export(family, tmp_path):
    prefix, picture = EXPORTS[family]
    model = architectures.build(family)
    weights = {}
    for name, weight in tree_flatten(model.parameters()):
        body = name.removeprefix("language_model.")
        if body.startswith("model."):
            weights[prefix + body.removeprefix("model.")] = weight
        else:
            outer = "language_model." if prefix.startswith("language") else ""
            weights[outer + body] = weight
    weights[picture] = mx.zeros((4, 4))
    config = architectures.config_of(family) | {"vision_config": {"depth": 1}}
    folder = write(tmp_path / family, config, weights)
    pair, _ = load(str(folder))
    assert pair.drafter is None and "no drafter is known" in pair.reason
    assert pair.target.num_layers == len(model.layers)
    check_tokens(pair, model)


def test_images_are_refused():
    pair, tokenizer = load()
    picture = {"type": "image", "image": "cat.png"}
    words = {"type": "text", "text": "What is this?"}
    messages = [{"role": "user", "content": [picture, words]}]
    with pytest.raises(PromptError, match="image"):
        apply_template(tokenizer, messages)
    pair.target.config["image_token_id"] = 77
    try:
        with pytest.raises(PromptError, match="image"):
            next(stream_generate(pair, tokenizer, [5, 77, 6]))
    finally:
        del pair.target.config["image_token_id"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ("qwen3", "qwen3_5", "lfm2"))
@pytest.mark.parametrize("dora", (False, True))
def test_adapters_change_the_target(family, dora, tmp_path):
    model = architectures.build(family)
    weights = dict(tree_flatten(model.parameters()))
    folder = write(tmp_path / family, architectures.config_of(family), weights)
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    linear_to_lora_layers(model, 4, parameters, use_dora=dora)
    leaves = ("lora_a", "lora_b", "m") if dora else ("lora_a", "lora_b")
    adapter = {
        name: mx.random.normal(weight.shape) if name.endswith("lora_b") else weight
        for name, weight in tree_flatten(model.parameters())
        if name.rsplit(".", 1)[-1] in leaves
    }
    assert adapter
    (tmp_path / "adapter").mkdir()
    mx.save_safetensors(str(tmp_path / "adapter/adapters.safetensors"), adapter)
    kind = "dora" if dora else "lora"
    about = {"fine_tune_type": kind, "num_layers": 4, "lora_parameters": parameters}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(about))
    bare, _ = load(str(folder))
    pair, _ = load(str(folder), adapter_path=str(tmp_path / "adapter"))
    theirs, _ = mlx_lm_load(str(folder), adapter_path=str(tmp_path / "adapter"))
    ids = [5, 9, 11, 2, 7]
    answer = examine.greedy(theirs, ids, 20)
    assert examine.greedy(bare.model, ids, 20) != answer
    check_tokens(pair, theirs)


FORMATS = (
    ("affine", 64, 2),
    ("affine", 64, 3),
    ("affine", 64, 4),
    ("affine", 64, 5),
    ("affine", 32, 6),
    ("affine", 32, 8),
    ("mxfp4", 32, 4),
    ("mxfp8", 32, 8),
    ("nvfp4", 16, 4),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "weights"), thinned(("qwen3", "qwen3_5_moe"), FORMATS, "targets", 2)
)
def test_quantized_checkpoints(family, weights, tmp_path):
    mode, group, bits = weights
    # Small experts stay unquantized, and the CPU multiplies those in float32 only.
    model = architectures.build(family, "float32" if "moe" in family else "bfloat16")
    config = architectures.config_of(family)
    model, config = quantize_model(model, config, group, bits, mode=mode)
    weights = dict(tree_flatten(model.parameters()))
    folder = write(tmp_path / "made", config, weights)
    pair, _ = load(str(folder))
    kinds = {
        (layer.mode, layer.bits)
        for _, layer in pair.model.named_modules()
        if type(layer) is nn.QuantizedLinear
    }
    assert (mode, bits) in kinds  # mlx-lm gives routers 8 bits
    theirs, _ = mlx_lm_load(str(folder))
    check_tokens(pair, theirs)
