"""DSpark drafters: a published implementation's drafts, the heads, and the loop."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair, Sampling, load_drafter
from dflash_mlx.errors import ConfigError, WeightsError
from dflash_mlx.models.drafters import read_config, save_folder
from dflash_mlx.models.drafters.config import DSparkConfig
from dflash_mlx.models.drafters.dspark import DSpark
from dflash_mlx.models.drafters.fields import MARKOV
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
from tests.golden.make_dspark import CASES, ROUNDS, TABLES

GOLDEN = Path(__file__).parents[2] / "golden" / "dspark.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_equals_a_published_drafter(case, tmp_path):
    arrays = mx.load(str(GOLDEN))
    drafter = load_drafter(write(tmp_path, CASES[case], golden_weights(arrays, case)))
    drafts = 5 if case in ("NVIDIA", "speculators") else 6
    assert type(drafter) is DSpark and drafter.block_size == drafts + 1
    assert drafter.taps == (1, 3, 5)
    embed, head = arrays[f"{case}.embed"], arrays[f"{case}.head"]
    own_embed, own_head = TABLES.get(case, (True, True))
    drafter.bind(
        (lambda ids: 0 / 0) if own_embed and own_head else lambda ids: embed[ids],
        None if own_head else lambda h: h @ head.T,
    )
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}.{i}.features"], cache)
        anchor, wanted = arrays[f"{case}.{i}.anchor"], arrays[f"{case}.{i}.logits"]
        block = forward_block(drafter, anchor, cache, drafts + 1)
        hidden = block[:, drafter.draft_rows(drafts + 1)]
        error = mx.abs(drafter.logits(hidden) - wanted).max()
        assert error < 1e-4 * mx.abs(wanted).max()
        path = drafter.propose(anchor, cache, drafts + 1, greedy)
        assert path.tolist() == arrays[f"{case}.{i}.path"].tolist()
        before = mx.concatenate([anchor[None], path[:, :-1]], axis=1)
        confidence = drafter.confidence(hidden, before)
        assert mx.abs(confidence - arrays[f"{case}.{i}.confidence"]).max() < 1e-4
        # Fewer drafts are the first ones of the same block.
        short = drafter.propose(anchor, cache, 4, greedy)
        assert short.tolist() == path[:, :3].tolist()


def make_dspark(own=False, **changes) -> DSpark:
    """A random DSpark drafter for the tiny targets."""
    fields = vars(make_drafter(7).config) | {"sample_from_anchor": True}
    fields |= {"markov_rank": 12, "has_embed_tokens": own, "has_lm_head": own}
    mx.random.seed(97)
    drafter = randomize_weights(DSpark(DSparkConfig(**fields | changes)), "float32")
    if drafter.config.markov_rank:  # without training it is 0
        shape = drafter.markov_head.markov_w2.weight.shape
        drafter.markov_head.markov_w2.weight = mx.random.normal(shape) * 0.3
    return drafter


@pytest.mark.parametrize("first", (0, 1))
@pytest.mark.parametrize("kind", MARKOV)
def test_drafts_follow_the_formula_of_the_markov_head(kind, first):
    """Draft by draft, reading the tokens in between, as in the paper. If the anchor's
    slot does not predict, a recurrent head passes it all the same."""
    drafter = make_dspark(markov_head_type=kind, sample_from_anchor=not first)
    head = drafter.markov_head
    if kind == "rnn":  # so that the state has an effect
        head.joint_proj.weight = mx.random.normal(head.joint_proj.weight.shape) * 0.3
    head.markov_w2.weight = head.markov_w2.weight * 40
    Pair.of(make_model("llama"), drafter)
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 9, 128), key=mx.random.key(1)), cache)
    anchor = mx.array([5])
    hidden = forward_block(drafter, anchor, cache, 8 - first)
    assert hidden.shape[1] == 7
    logits, head = drafter.logits(hidden), drafter.markov_head
    before, state, path = 5, mx.zeros((12,)), []
    for t in range(7):
        if t == 1 and first:
            before = 5
        e, h = head.markov_w1.weight[before], hidden[0, t]
        if kind == "gated":
            gate = head.gate_proj.weight @ mx.concatenate([h, e]) + head.gate_proj.bias
            e = mx.sigmoid(gate) * e
        if kind == "rnn":
            joined = mx.concatenate([state, e, h])
            joint = head.joint_proj.weight @ joined + head.joint_proj.bias
            g, c, o = joint[:12], joint[12:24], joint[24:]
            state = mx.sigmoid(g) * state + (1 - mx.sigmoid(g)) * mx.tanh(c)
            e = mx.tanh(o)
        before = mx.argmax(logits[0, t] + head.markov_w2.weight @ e).item()
        path.append(before)
    path, logits = path[first:], logits[:, first:]
    assert drafter.propose(anchor, cache, 8 - first, greedy).tolist() == [path]
    assert path != mx.argmax(logits[0], axis=-1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "temp"), thinned((*MARKOV, None), (0.0, 1.0), "loop", 2)
)
def test_it_does_not_change_the_tokens(kind, temp):
    model, prompt = make_model("qwen3"), some_prompt(30)
    options = {"sampling": Sampling(temp=temp, seed=3, repetition_penalty=1.1)}
    plain = run(Pair.of(model), prompt, 30, **options)
    changes = {"markov_head_type": kind} if kind else {"markov_rank": 0}
    for own in (False, True):
        pair = Pair.of(model, make_dspark(own, **changes))
        for width in (None, 3, 12):
            assert run(pair, prompt, 30, block_size=width, **options) == plain
    if not temp:
        greedy_text = run(Pair.of(model, make_dspark()), prompt, 40)
        assert greedy_text == reference(model, prompt, 40)


def test_checkpoints_round_trip(tmp_path):
    for own in (False, True):
        drafter = make_dspark(own, markov_head_type="gated")
        save_folder(drafter, tmp_path, mx.float32)
        again = load_drafter(tmp_path)
        assert again.config == drafter.config
        ours = dict(tree_flatten(drafter.parameters()))
        theirs = dict(tree_flatten(again.parameters()))
        assert ours.keys() == theirs.keys()
        assert all(mx.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"architectures": ["DeepseekV4DSparkModel"]}, "DeepseekV4DSparkModel"),
        ({"log_snr_conditioning": True}, "min_log_snr"),
        ({"draft_vocab_size": 51}, "draft_vocab_size"),
        ({"selector_rank": 256}, "selector_rank"),
        ({"dspark_bonus_anchor": True}, "dspark_bonus_anchor"),
        ({"markov_head_type": "lstm"}, "markov_head_type"),
        ({"speculators_config": {}}, "speculators_config"),
        ({"block_size": None}, "block_size"),
    ],
)
def test_unsupported_fields_are_refused_by_name(tmp_path, change, word):
    config = {k: v for k, v in (CASES["DeepSpec"] | change).items() if v is not None}
    with pytest.raises(ConfigError, match=word):
        read_config(write(tmp_path, config))


def test_draft_vocab_size_may_be_the_full_vocabulary(tmp_path):
    read_config(write(tmp_path, CASES["DeepSpec"] | {"draft_vocab_size": 50}))


def test_a_missing_head_is_named(tmp_path):
    weights = golden_weights(mx.load(str(GOLDEN)), "SpecForge")
    del weights["markov_head.markov_w2.weight"]
    with pytest.raises(WeightsError, match="markov_w2"):
        load_drafter(write(tmp_path, CASES["SpecForge"], weights))
