"""The DFlash 2 drafter: the published one's drafts, DFlash v1's, and the loop."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, Sampling, load_drafter
from dflash_mlx.errors import ConfigError, WeightsError
from dflash_mlx.models.drafters import read_config, save_folder
from dflash_mlx.models.drafters.config import DFlash2Config
from dflash_mlx.models.drafters.dflash2 import DFlash2
from tests.equipment.full import thinned
from tests.equipment.random_weights import randomize_weights
from tests.equipment.tiny import (
    forward_block,
    golden_weights,
    greedy,
    make_drafter,
    make_model,
    reference,
    run,
    some_prompt,
    write,
)
from tests.golden.make_dflash2 import CASES, EXTRAS
from tests.golden.make_dflash_v1 import ROUNDS, SHAPE

GOLDEN = Path(__file__).parents[2] / "golden" / "dflash2.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_drafter(case):
    arrays = mx.load(str(GOLDEN))
    drafter = DFlash2(DFlash2Config(**SHAPE | EXTRAS | CASES[case]))
    drafter.load_weights(list(golden_weights(arrays, case).items()))
    embed, head = arrays[f"{case}.embed"], arrays[f"{case}.head"]
    drafter.bind(lambda ids: embed[ids], lambda h: h @ head.T)
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}.{i}.features"], cache)
        anchor, wanted = arrays[f"{case}.{i}.anchor"], arrays[f"{case}.{i}.logits"]
        hidden = forward_block(drafter, anchor, cache, 6)
        logits = drafter.logits(hidden[:, drafter.draft_rows(6)])
        assert mx.abs(logits - wanted).max() < 1e-4 * mx.abs(wanted).max()
        path = drafter.propose(anchor, cache, 6, greedy)
        assert path.tolist() == arrays[f"{case}.{i}.path"].tolist()
        # The selector does not just choose the best logits.
        assert path.tolist() != mx.argmax(wanted, axis=-1).tolist()


def make_dflash2(**changes) -> DFlash2:
    """A random DFlash 2 drafter for the tiny targets."""
    first = make_drafter().config
    mx.random.seed(98)
    fields = vars(first) | EXTRAS | changes
    drafter = randomize_weights(DFlash2(DFlash2Config(**fields)), "float32")
    # Without training the convolutions and the selector change nothing.
    selector = drafter.candidate_selector
    selector.successor_codebook = mx.random.normal(selector.successor_codebook.shape)
    for layer in drafter.layers:
        for conv in (layer.attention_conv, layer.mlp_conv):
            shape = conv.kernel_projection.weight.shape
            conv.kernel_projection.weight = mx.random.normal(shape) * 0.05
    return drafter


def test_without_its_additions_it_is_dflash():
    one = make_drafter()
    two = DFlash2(DFlash2Config(**vars(one.config) | EXTRAS | {"is_causal": None}))
    weights = dict(tree_flatten(two.parameters())) | dict(
        tree_flatten(one.parameters())
    )
    two.load_weights(list(weights.items()))
    model = make_model("llama")
    features = mx.random.normal((1, 20, 128), key=mx.random.key(1))
    drafts = []
    for drafter in (one, two):
        Pair.of(model, drafter)
        cache = drafter.make_cache()
        drafter.extend(features, cache)
        drafts.append(drafter.propose(mx.array([5]), cache, 8, greedy).tolist())
    assert drafts[0] == drafts[1]


SAMPLINGS = {
    "greedy": Sampling(),
    "sampled": Sampling(temp=1.0, seed=3),
    "filtered": Sampling(temp=1.2, top_p=0.9, top_k=9, min_p=0.01, seed=4),
    "xtc": Sampling(temp=1.2, xtc_probability=0.5, xtc_special_tokens=(90, 95), seed=6),
    "penalties": Sampling(
        temp=0.9, repetition_penalty=1.3, logit_bias={95: 2.0, 3: -4.0}, seed=7
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), thinned(SAMPLINGS, (2, 8), "loop", 2))
def test_it_does_not_change_the_tokens(name, width):
    model, prompt = make_model("qwen3"), some_prompt(30)
    options = {"sampling": SAMPLINGS[name]}
    plain = run(Pair.of(model), prompt, 50, **options)
    if name == "greedy":
        assert plain == reference(model, prompt, 50)
    for changes in (
        {},
        {"layer_types": ("sliding_attention",) * 2, "sliding_window": 9},
    ):
        pair = Pair.of(model, make_dflash2(**changes))
        assert run(pair, prompt, 50, block_size=width, **options) == plain


# The published config of Qwen3.8-27B's drafter.
CONFIG = {
    "architectures": ["DFlash2DraftModel"],
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "num_hidden_layers": 5,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 248320,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 262144,
    "num_target_layers": 64,
    "layer_types": ["sliding_attention"] * 5,
    "sliding_window": 2048,
    "is_causal": False,
    "rope_parameters": {"rope_theta": 10000000, "rope_type": "default"},
    "dflash_config": {
        "block_size": 8,
        "mask_token_id": 248070,
        "target_layer_ids": [5, 19, 33, 47, 61],
        "conv_kernel_size": 2,
        "conv_group_size": 16,
        "selector_rank": 256,
        "selector_top_k": 16,
    },
}


def test_reads_the_published_config(tmp_path):
    config = read_config(write(tmp_path, CONFIG))
    assert isinstance(config, DFlash2Config)
    assert (config.selector_rank, config.conv_group_size) == (256, 16)
    assert config.is_causal is False and config.sliding_window == 2048
    again = read_config(write(tmp_path, config.to_json()))
    assert again == config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"conv_group_size": 48}, "conv_group_size"),
        ({"selector_rank": 0}, "selector_rank"),
        ({"selector_top_k": "16"}, "selector_top_k"),
        ({"markov_rank": 256}, "markov_rank"),
    ],
)
def test_bad_configs_are_refused_by_name(tmp_path, change, word):
    nested = CONFIG["dflash_config"] | change
    with pytest.raises(ConfigError, match=word):
        read_config(write(tmp_path, CONFIG | {"dflash_config": nested}))


def test_checkpoints_round_trip(tmp_path):
    drafter = make_dflash2()
    save_folder(drafter, tmp_path, mx.float32)
    weights = mx.load(str(tmp_path / "model.safetensors"))
    assert "candidate_selector.successor_codebook" in weights
    again = load_drafter(tmp_path)
    assert type(again) is DFlash2 and again.config == drafter.config
    for name, weight in tree_flatten(again.parameters()):
        assert mx.array_equal(weight, weights[name])
    packed = load_drafter(tmp_path, quantize=8)
    model, prompt = make_model("qwen3"), some_prompt(30)
    assert run(Pair.of(model, packed), prompt, 20) == reference(model, prompt, 20)
    del weights["candidate_selector.successor_codebook"]
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    with pytest.raises(WeightsError, match="successor_codebook"):
        load_drafter(tmp_path)
