"""The objective: anchors, the block mask and the losses."""

from dataclasses import replace
from random import Random

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from dflash_mlx import Pair
from dflash_mlx.train.answers import Example
from dflash_mlx.train.objective import (
    OBJECTIVES,
    Slots,
    block_hidden,
    loss,
    make_batch,
    teacher_logits,
)
from dflash_mlx.train.options import TrainOptions
from tests.equipment.tiny import SHAPE, forward_block, make_drafter
from tests.equipment.training import (
    KIND_OPTIONS,
    OPTIONS,
    draft_block,
    filled_cache,
    make_examples,
    warm_drafter,
)

SLIDING = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6}
MASKS = {
    "full": {},
    "sliding": SLIDING,
    "symmetric": SLIDING | {"is_causal": False},
    "from the anchor": SLIDING | {"window_from_anchor": True},
    "causal": {"is_causal": True},
}


@pytest.mark.parametrize("mask", MASKS)
def test_the_training_pass_equals_single_block_drafting(mask, target):
    drafter = make_drafter(**MASKS[mask])
    pair = Pair.of(target.model, drafter)
    options = replace(OPTIONS, block_size=8, anchors=5)
    batch = make_batch(make_examples(3), drafter.config, options, Random(0))
    features = pair.target.forward(batch.ids, None, drafter.taps)[1]
    together = block_hidden(drafter, features, batch)
    for n in range(3):
        for m in range(5):
            anchor = batch.anchors[n, m].item()
            cache = drafter.make_cache()
            drafter.extend(features[n : n + 1, :anchor], cache)
            alone = forward_block(drafter, batch.blocks[n * 5 + m, :1], cache, 8)[0]
            assert mx.allclose(alone, together[n * 5 + m], atol=3e-6).item()


def test_no_array_of_a_training_pass_joins_the_context_with_the_blocks(target):
    """It would be copied in every layer, forward and back, and each row would have a
    score for every row of all blocks."""
    drafter, events = make_drafter(), []
    pair = Pair.of(target.model, drafter)
    options = replace(OPTIONS, block_size=8, anchors=5)
    batch = make_batch(make_examples(3), drafter.config, options, Random(0))
    features = pair.target.forward(batch.ids, None, drafter.taps)[1]
    forward = nn.value_and_grad(drafter, lambda *a: loss(*a)[0])

    def gradients(features):
        return [g for _, g in tree_flatten(forward(drafter, features, batch)[1])]

    mx.export_function(events.append, gradients, features)
    sizes = {
        size
        for event in events
        if event["type"] == "primitive"
        for _, shape, _ in event["outputs"]
        for size in shape
    }
    context, rows = features.shape[1], 5 * 8
    assert context in sizes and not sizes & {context + 8, context + rows}


def test_batches_have_anchors_and_labels_from_the_answers_only():
    config = make_drafter().config
    rows = [Example(list(range(30)), [(5, 12), (20, 24)])]
    options = replace(OPTIONS, anchors=64)
    batch = make_batch(rows, config, options, Random(1))
    weights, width = batch.weights.reshape(64, -1), config.block_size
    used = [m for m in range(64) if weights[m, 0].item() > 0]
    anchors = {batch.anchors[0, m].item() for m in used}
    assert anchors == {*range(5, 11), *range(20, 23)}
    for m in used:
        a = batch.anchors[0, m].item()
        end = 12 if a < 12 else 24
        real = min(width - 1, end - a - 1)
        assert (weights[m] > 0).sum().item() == real
        assert batch.labels[m, :real].tolist() == list(range(a + 1, a + 1 + real))
        assert batch.blocks[m].tolist() == [a] + [config.mask_token_id] * (width - 1)
    assert not weights[len(used) :].any().item()


def test_weights_decay_as_in_the_paper():
    config = make_drafter(block_size=8).config
    options = replace(OPTIONS, block_size=8, anchors=1)
    batch = make_batch(make_examples(1), config, options, Random(3))
    ratio = batch.weights[0, 1] / batch.weights[0, 0]
    assert abs(ratio.item() - 2.718281828 ** (-1 / 4)) < 1e-6
    assert TrainOptions().decay(16) == 7
    assert TrainOptions(gamma=2.5).decay(8) == 2.5


def test_the_loss_in_parts_equals_the_whole(target, monkeypatch):
    drafter = make_drafter()
    pair = Pair.of(target.model, drafter)
    batch = make_batch(make_examples(4), drafter.config, OPTIONS, Random(0))
    features = pair.target.forward(batch.ids, None, drafter.taps)[1]
    whole, acceptance = loss(drafter, features, batch)
    monkeypatch.setattr("dflash_mlx.train.objective.LOGITS_AT_ONCE", 3 * 7 * 97)
    parts, parts_acceptance = loss(drafter, features, batch)
    assert mx.allclose(whole, parts).item()
    assert mx.array_equal(acceptance, parts_acceptance)


@pytest.mark.parametrize("kind", KIND_OPTIONS)
def test_gradients_in_parts_equal_the_whole(kind, target, source, monkeypatch):
    """For every parameter, including the heads' and the drafter's own lm_head."""
    drafter = warm_drafter(target, kind, source)
    drafter.config = replace(drafter.config, has_lm_head=True)
    drafter.lm_head = nn.Linear(64, 97, bias=False)
    # Zeros in these would block the gradients of the layers before them.
    for name in ("markov_w2", "successor_codebook"):
        for owner in drafter.modules():
            if name in owner:
                drawn = mx.random.normal((97, 8)) * 0.1
                part = owner[name]
                if isinstance(part, nn.Linear):
                    part.weight = drawn
                else:
                    owner[name] = drawn
    Pair.of(target.model, drafter)
    batch = make_batch(make_examples(4), drafter.config, OPTIONS, Random(0))
    features = target.target.forward(batch.ids, None, drafter.taps)[1]
    teacher = mx.random.normal((*batch.labels.shape, 97)) if kind == "dspark" else None
    grads = []
    for limit in (2**26, 3 * 6 * 97):
        monkeypatch.setattr("dflash_mlx.train.objective.LOGITS_AT_ONCE", limit)
        gradient = nn.value_and_grad(drafter, lambda *a: loss(*a)[0])
        grads.append(dict(tree_flatten(gradient(drafter, features, batch, teacher)[1])))
    assert grads[0].keys() == grads[1].keys()
    for name, whole in grads[0].items():
        assert mx.allclose(whole, grads[1][name], atol=1e-5).item(), name
    assert mx.abs(grads[1]["lm_head.weight"]).max().item() > 0


def test_drafts_that_equal_the_labels_are_right(target, source):
    """Each slot is computed given the true tokens before it."""
    for kind in KIND_OPTIONS:
        drafter = warm_drafter(target, kind, source)
        if kind == "dflash2":
            shape = drafter.candidate_selector.successor_codebook.shape
            drafter.candidate_selector.successor_codebook = mx.random.normal(shape)
        if kind == "dspark":
            shape = drafter.markov_head.markov_w2.weight.shape
            drafter.markov_head.markov_w2.weight = mx.random.normal(shape)
        labels = mx.array(draft_block(target, drafter))
        hidden = forward_block(drafter, mx.array([5]), filled_cache(drafter), 6)
        teacher = mx.random.normal((1, 5, SHAPE["vocab_size"]))
        slots = Slots(hidden, mx.array([5]), labels, teacher)
        losses, right = OBJECTIVES[type(drafter)](drafter, slots)
        assert right.tolist() == [[1.0] * 5] and losses.shape == (1, 5)
        wrong = replace(slots, labels=(labels + 1) % 97)
        assert OBJECTIVES[type(drafter)](drafter, wrong)[1].sum().item() < 5


def test_the_dspark_loss_equals_its_formula(target, source):
    drafter = warm_drafter(target, "dspark", source)
    Pair.of(target.model, drafter)
    mx.random.seed(5)
    hidden = mx.random.normal((2, 6, 64))
    labels, anchors = mx.array([[1, 2, 3, 4, 5]] * 2), mx.array([7, 8])
    teacher = mx.random.normal((2, 5, 97))
    slots = Slots(hidden, anchors, labels, teacher)
    losses, _ = OBJECTIVES[type(drafter)](drafter, slots)
    p = mx.softmax(drafter.logits(hidden[:, 1:]), axis=-1)
    q = mx.softmax(teacher, axis=-1)
    distance = mx.abs(p - q).sum(-1)
    entropy = -mx.log(mx.take_along_axis(p, labels[..., None], axis=-1))[..., 0]
    before = mx.array([[7, 1, 2, 3, 4], [8, 1, 2, 3, 4]])
    confidence, accepted = drafter.confidence(hidden[:, 1:], before), 1 - distance / 2
    binary = -(accepted * mx.log(confidence) + (1 - accepted) * mx.log(1 - confidence))
    expected = 0.1 * entropy + 0.9 * distance + binary
    assert mx.allclose(losses, expected, atol=1e-4).item()


def test_teacher_logits_are_the_rows_that_predict_the_labels(target):
    config = make_drafter(block_size=6).config
    rows = make_examples(2)
    batch = make_batch(rows, config, replace(OPTIONS, anchors=3), Random(0))
    logits, _ = target.target.forward(batch.ids[:1], None)
    found = teacher_logits(logits, batch.anchors[0], 5)
    for m, a in enumerate(batch.anchors[0].tolist()):
        for k in range(5):
            if batch.weights[m, k].item():
                assert rows[0].ids[a + 1 + k] == batch.labels[m, k].item()
                assert mx.array_equal(found[m, k], logits[0, a + k]).item()
