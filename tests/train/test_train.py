"""Training: data, anchors, mask, loss, resuming, and that it learns."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs

from dflash_mlx import Pair, load, load_drafter
from dflash_mlx.convert import Changes, convert
from dflash_mlx.errors import DataError, OptionError
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.models.drafters import save_folder
from dflash_mlx.train.answers import (
    Example,
    read_questions,
    stored,
    write_answers,
)
from dflash_mlx.train.drafter import Run, start
from dflash_mlx.train.exercises import conversation, draw, is_held_out
from dflash_mlx.train.objective import (
    OBJECTIVES,
    Slots,
    block_hidden,
    loss,
    make_batch,
    teacher_rows,
)
from dflash_mlx.train.settings import TrainOptions, default_taps
from tests.equipment.tiny import (
    SHAPE,
    greedy,
    make_drafter,
    make_model,
    some_prompt,
)

OPTIONS = TrainOptions(
    block_size=6,
    layers=1,
    taps=(0, 2),
    mask_token_id=96,
    steps=6,
    batch=4,
    anchors=8,
    held_out=2,
    eval_every=3,
    save_every=2,
    lr=2e-3,
)


@pytest.fixture(scope="module")
def target():
    model = make_model("llama")
    return Pair.of(model, None, SHAPE | {"model_type": "llama"})


def examples(n, seed=0):
    rows = [some_prompt(20 + i % 7, seed + i) for i in range(n)]
    return [Example(row, [(6, len(row))]) for row in rows]


class Tokenizer:
    mask_token_id = 96


KINDS = {
    "dflash": {},
    "dflash2": {"rank": 8},
    "dspark": {"rank": 8, "markov_head": "rnn"},
}


@pytest.fixture
def source(target, tmp_path):
    """A DFlash head to start from, in a folder."""
    drafter = make_drafter(block_size=6)
    save_folder(drafter, tmp_path / "source", mx.float32)
    return str(tmp_path / "source")


def drafted(target, drafter):
    """What a drafter proposes behind some context."""
    Pair.of(target.model, drafter)
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 20, 128), key=mx.random.key(3)), cache)

    return drafter.propose(mx.array([5]), cache, 6, greedy).tolist()


def warm(kind, source, **changes):
    return TrainOptions(
        kind=kind,
        warm_start=source,
        **KINDS[kind]
        | {"steps": 40, "batch": 4, "anchors": 8, "held_out": 2}
        | changes,
    )


SLIDING = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6}
SIGHTS = {
    "full": {},
    "sliding": SLIDING,
    "symmetric": SLIDING | {"is_causal": False},
    "from the anchor": SLIDING | {"window_from_anchor": True},
    "causal": {"is_causal": True},
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_training_pass_equals_single_block_drafting(sight, target):
    drafter = make_drafter(**SIGHTS[sight])
    pair = Pair.of(target.model, drafter)
    options = replace(OPTIONS, block_size=8, anchors=5)
    batch = make_batch(examples(3), drafter.config, options, Random(0))
    features = pair.target.forward(batch.ids, None, drafter.taps)[1]
    together = block_hidden(drafter, features, batch)
    for n in range(3):
        for m in range(5):
            anchor = batch.anchors[n, m].item()
            cache = drafter.make_cache()
            drafter.extend(features[n : n + 1, :anchor], cache)
            alone = drafter.slots(batch.blocks[n * 5 + m, :1], cache, 8)[0]
            assert mx.allclose(alone, together[n * 5 + m], atol=1e-6).item()


def test_batches_hold_what_the_target_wrote():
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


def test_later_slots_weigh_less_as_the_paper_says():
    config = make_drafter(block_size=8).config
    options = replace(OPTIONS, block_size=8, anchors=1)
    batch = make_batch(examples(1), config, options, Random(3))
    ratio = batch.weights[0, 1] / batch.weights[0, 0]
    assert abs(ratio.item() - 2.718281828 ** (-1 / 4)) < 1e-6
    assert TrainOptions().decay(16) == 7
    assert TrainOptions(gamma=2.5).decay(8) == 2.5


def test_the_loss_in_pieces_is_the_loss(target, monkeypatch):
    drafter = make_drafter()
    pair = Pair.of(target.model, drafter)
    batch = make_batch(examples(4), drafter.config, OPTIONS, Random(0))
    features = pair.target.forward(batch.ids, None, drafter.taps)[1]
    whole, kept = loss(drafter, features, batch)
    monkeypatch.setattr("dflash_mlx.train.objective.LOGITS_AT_ONCE", 3 * 7 * 97)
    pieces, again = loss(drafter, features, batch)
    assert mx.allclose(whole, pieces).item() and mx.array_equal(kept, again)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_pieces_are_the_gradients(kind, target, source, monkeypatch):
    """Of every parameter, the heads' and an own table's among them."""
    drafter = start(target, Tokenizer(), warm(kind, source))
    drafter.config = replace(drafter.config, has_lm_head=True)
    drafter.lm_head = nn.Linear(64, 97, bias=False)
    for name in ("markov_w2", "successor_codebook"):  # 0 would hide what lies before
        for owner in drafter.modules():
            if name in owner:
                drawn = mx.random.normal((97, 8)) * 0.1
                part = owner[name]
                if isinstance(part, nn.Linear):
                    part.weight = drawn
                else:
                    owner[name] = drawn
    Pair.of(target.model, drafter)
    batch = make_batch(examples(4), drafter.config, OPTIONS, Random(0))
    features = target.target.forward(batch.ids, None, drafter.taps)[1]
    teacher = mx.random.normal((*batch.labels.shape, 97)) if kind == "dspark" else None
    grads = []
    for most in (2**26, 3 * 6 * 97):
        monkeypatch.setattr("dflash_mlx.train.objective.LOGITS_AT_ONCE", most)
        gradient = nn.value_and_grad(drafter, lambda *a: loss(*a)[0])
        grads.append(dict(tree_flatten(gradient(drafter, features, batch, teacher)[1])))
    assert grads[0].keys() == grads[1].keys()
    for name, whole in grads[0].items():
        assert mx.allclose(whole, grads[1][name], atol=1e-5).item(), name
    assert mx.abs(grads[1]["lm_head.weight"]).max().item() > 0


def test_sources_that_cannot_be_trained_on(target, source, tmp_path):
    convert(Path(source), tmp_path / "packed", Changes(4))
    with pytest.raises(OptionError, match="quantized"):
        start(target, Tokenizer(), warm("dflash", str(tmp_path / "packed")))
    dspark = start(target, Tokenizer(), warm("dspark", source))
    save_folder(dspark, tmp_path / "dspark", mx.float32)
    with pytest.raises(OptionError, match="another kind"):
        start(target, Tokenizer(), warm("dflash", str(tmp_path / "dspark")))
    # The same kind goes on with the head that it has.
    again = start(target, Tokenizer(), warm("dspark", str(tmp_path / "dspark")))
    assert again.config == dspark.config
    with pytest.raises(OptionError, match="markov_rank 32 contradicts"):
        start(target, Tokenizer(), warm("dspark", str(tmp_path / "dspark"), rank=32))
    reduced = make_drafter(6, draft_vocab_size=40, has_lm_head=True)
    save_folder(reduced, tmp_path / "reduced", mx.float32)
    with pytest.raises(OptionError, match="reduced vocabulary"):
        start(target, Tokenizer(), warm("dflash2", str(tmp_path / "reduced")))


def test_default_taps_are_those_of_published_heads():
    assert default_taps(36, 5) == (1, 9, 17, 25, 33)
    assert default_taps(32, 5) == (1, 8, 15, 22, 29)
    assert default_taps(64, 5) == (1, 16, 31, 46, 61)
    assert default_taps(36, 1) == (18,)


def run_to(target, out, stop=None):
    run = Run(target, Tokenizer(), examples(14), OPTIONS, out)

    def progress(report):
        if report.step == stop:
            raise KeyboardInterrupt

    if stop:
        with pytest.raises(KeyboardInterrupt):
            run.go(progress)
    else:
        run.go(progress)
    return run


def test_a_broken_run_goes_on_to_the_same_weights(target, tmp_path):
    whole = run_to(target, tmp_path / "whole")
    run_to(target, tmp_path / "broken", stop=5)
    resumed = run_to(target, tmp_path / "broken")
    assert [r["step"] for r in resumed.record] == [3, 6]
    ours = tree_flatten(resumed.drafter.parameters())
    for (name, a), (_, b) in zip(
        ours, tree_flatten(whole.drafter.parameters()), strict=True
    ):
        assert mx.allclose(a, b, atol=1e-6).item(), name
    with pytest.raises(OptionError, match="other settings"):
        Run(
            target,
            Tokenizer(),
            examples(14),
            replace(OPTIONS, lr=1e-3),
            tmp_path / "whole",
        )
    loaded = load_drafter(tmp_path / "whole")
    assert loaded.config == whole.drafter.config


def test_training_learns(target, tmp_path):
    # One sentence over and over: the drafter must come to know it.
    row = some_prompt(30, 3)
    rows = [Example(row, [(4, 30)])] * 12
    options = replace(OPTIONS, steps=60, eval_every=60, save_every=60, lr=5e-3)
    losses, kept = [], []

    def progress(report):
        losses.append(report.loss)
        kept.append(report.acceptance)

    Run(target, Tokenizer(), rows, options, tmp_path).go(progress)
    assert losses[-1] < losses[0] / 10
    assert kept[-1][0] > 0.9 and all(
        a >= b for a, b in zip(kept[-1], kept[-1][1:], strict=False)
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"prompt": "a"}\nnonsense\n', "line 2 is not valid JSON"),
        ('{"prompt": "a"}\n\n{"promt": "b"}\n', "line 3 has neither"),
        ('{"messages": [{"role": "user"}]}\n', "line 1 has a message without"),
        ('{"messages": [{"role": "robot", "content": "x"}]}\n', "line 1 has a message"),
        ('{"messages": [{"role": "system", "content": "x"}]}\n', "no user message"),
        ("[1, 2]\n", "line 1 is not a JSON object"),
        ("\n", "has no conversations"),
    ],
)
def test_bad_data_is_named_by_line(tmp_path, lines, words):
    file = tmp_path / "data.jsonl"
    file.write_text(lines)
    with pytest.raises(DataError, match=words):
        read_questions(file)


def test_the_target_answers_and_a_broken_file_goes_on(tmp_path):
    pair, tokenizer = load("tiny", "none")
    file = tmp_path / "data.jsonl"
    chat = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "to be dropped"},
        {"role": "user", "content": "Thank you!"},
    ]
    rows = [{"prompt": "Who are you?"}, {"messages": chat}]
    file.write_text("\n".join(map(json.dumps, rows)))
    questions = read_questions(file)
    out = tmp_path / "answers.jsonl"
    done = write_answers(pair, tokenizer, questions, out, max_tokens=80)
    first, second = done
    text = tokenizer.decode(first.ids[slice(*first.spans[0])])
    assert text.startswith("I am tiny") and text.endswith("<|im_end|>")
    assert len(second.spans) == 2
    assert "to be dropped" not in tokenizer.decode(second.ids)
    # A line that was half written when the run stopped is written again.
    out.write_text(out.read_text()[:-9])
    with pytest.raises(OptionError, match="another model, data or setting"):
        write_answers(pair, tokenizer, questions, out, max_tokens=9)
    asked = json.loads(out.read_text().splitlines()[0])
    assert len(list(stored(out, asked))) == 1
    assert write_answers(pair, tokenizer, questions, out, max_tokens=80) == done


@pytest.mark.slow
def test_the_command_trains_and_the_result_loads(tmp_path):
    folder = tmp_path / "target"
    folder.mkdir()
    config = SHAPE | {"model_type": "qwen3", "vocab_size": 512, "eos_token_id": 2}
    mx.random.seed(0)
    model = Model(ModelArgs.from_dict(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters()))
    )
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((TINY_FOLDER / name).read_text())
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": f"Say {i}."}) for i in range(12)))
    command = [sys.executable, "-m", "dflash_mlx", "train", "--model", str(folder)]
    command += ["--data", str(data), "--out", str(tmp_path / "out")]
    settings = "--steps 4 --batch 2 --anchors 4 --layers 1 --block-size 4 --taps 0,2"
    command += f"{settings} --held-out 2 --eval-every 2 --max-tokens 12".split()
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "" and "held out" in run.stderr
    pair, _ = load(str(folder), str(tmp_path / "out"))
    assert pair.drafter.taps == (0, 2) and pair.drafter.config.mask_token_id == 3
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert [row["step"] for row in record["record"]] == [2, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_drafts_as_its_source(kind, target, source):
    drafter = start(target, Tokenizer(), warm(kind, source))
    assert drafted(target, drafter) == drafted(target, load_drafter(source))
    assert drafter.block_size == 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_is_written(kind, target, source, tmp_path):
    """40 updates on 30 texts: the loss falls, also that of what the kind adds."""
    options = warm(kind, source, lr=5e-3)
    job = Run(target, Tokenizer(), examples(32), options, tmp_path / "out")
    batch = job._batch(0)
    before = loss(job.drafter, *job._lesson(batch))[0].item()
    job.go()
    after = loss(job.drafter, *job._lesson(batch))[0].item()
    assert after < 0.9 * before
    added = {
        "dflash": "fc",
        "dflash2": "candidate_selector.successor_codebook",
        "dspark": "markov_head.markov_w2",
    }
    weights = dict(tree_flatten(job.drafter.parameters()))
    learnt = next(v for k, v in weights.items() if k.startswith(added[kind]))
    assert mx.abs(learnt).max().item() > 0
    again = load_drafter(tmp_path / "out")
    assert type(again) is type(job.drafter) and again.config == job.drafter.config


def test_a_walk_is_judged_behind_the_true_tokens(target, source):
    """With labels that the drafter itself would draft, every slot is right."""
    for kind in KINDS:
        drafter = start(target, Tokenizer(), warm(kind, source))
        if kind == "dflash2":
            shape = drafter.candidate_selector.successor_codebook.shape
            drafter.candidate_selector.successor_codebook = mx.random.normal(shape)
        if kind == "dspark":
            shape = drafter.markov_head.markov_w2.weight.shape
            drafter.markov_head.markov_w2.weight = mx.random.normal(shape)
        path = drafted(target, drafter)[0]
        cache = drafter.make_cache()
        drafter.extend(mx.random.normal((1, 20, 128), key=mx.random.key(3)), cache)
        hidden = drafter.slots(mx.array([5]), cache, 6)
        labels = mx.array([path])
        teacher = mx.random.normal((1, 5, SHAPE["vocab_size"]))
        slots = Slots(hidden, mx.array([5]), labels, teacher)
        losses, right = OBJECTIVES[type(drafter)](drafter, slots)
        assert right.tolist() == [[1.0] * 5] and losses.shape == (1, 5)
        wrong = replace(slots, labels=(labels + 1) % 97)
        assert OBJECTIVES[type(drafter)](drafter, wrong)[1].sum().item() < 5


def test_the_dspark_loss_is_its_formula(target, source):
    drafter = start(target, Tokenizer(), warm("dspark", source))
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
    trust, kept = drafter.confidence(hidden[:, 1:], before), 1 - distance / 2
    binary = -(kept * mx.log(trust) + (1 - kept) * mx.log(1 - trust))
    wanted = 0.1 * entropy + 0.9 * distance + binary
    assert mx.allclose(losses, wanted, atol=1e-4).item()


def test_the_teachers_rows_are_those_of_the_labels(target):
    config = make_drafter(block_size=6).config
    rows = examples(2)
    batch = make_batch(rows, config, replace(OPTIONS, anchors=3), Random(0))
    logits, _ = target.target.forward(batch.ids[:1], None)
    found = teacher_rows(logits, batch.anchors[0], 5)
    for m, a in enumerate(batch.anchors[0].tolist()):
        for k in range(5):
            if batch.weights[m, k].item():
                assert rows[0].ids[a + 1 + k] == batch.labels[m, k].item()
                assert mx.array_equal(found[m, k], logits[0, a + k]).item()


def test_settings_that_contradict_the_source(target, source):
    for change in ({"block_size": 9}, {"layers": 3}, {"taps": (0, 1)}):
        with pytest.raises(OptionError, match="contradicts"):
            start(target, Tokenizer(), warm("dflash", source, **change))


def test_options_out_of_range():
    wrong = {"steps": 0, "block_size": 1, "lr": 0, "held_out": 0, "rank": 0}
    wrong |= {"kind": "eagle", "markov_head": "lstm"}
    for bad in ({name: value} for name, value in wrong.items()):
        with pytest.raises(OptionError, match=next(iter(bad))):
            TrainOptions(**bad)


def test_exercises_are_right_and_split():
    rng = Random(1)
    for _ in range(300):
        prompt, answer = draw(rng)
        assert prompt and answer
        if prompt.startswith("What is ") and "+" in prompt:
            a, b = prompt[8:-1].split(" + ")
            assert answer.endswith(f"The answer is {int(a) + int(b)}.")
    held = {draw(rng, held_out=True)[0] for _ in range(100)}
    assert all(is_held_out(prompt) for prompt in held)
    chat = conversation(rng, 2)
    assert [m["role"] for m in chat] == ["user", "assistant"] * 2
