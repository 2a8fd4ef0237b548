"""A training run: it learns, resumes, and writes a drafter that loads."""

import json
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3 import Model, ModelArgs

from dflash_mlx import load, load_drafter
from dflash_mlx.errors import OptionError
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.train.answers import Example
from dflash_mlx.train.objective import loss
from dflash_mlx.train.trainer import Trainer
from tests.equipment.tiny import SHAPE, some_prompt
from tests.equipment.training import (
    KIND_OPTIONS,
    OPTIONS,
    StubTokenizer,
    draft_block,
    make_examples,
    warm_drafter,
    warm_options,
)

FULL = pytest.mark.full("programs")


def train(target, out, stop=None):
    """Train in folder `out`, and interrupt the run after step `stop`."""
    trainer = Trainer(target, StubTokenizer(), make_examples(14), OPTIONS, out)

    def progress(report):
        if report.step == stop:
            raise KeyboardInterrupt

    if stop:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(progress)
    else:
        trainer.train(progress)
    return trainer


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights(target, tmp_path):
    whole = train(target, tmp_path / "whole")
    train(target, tmp_path / "broken", stop=5)
    resumed = train(target, tmp_path / "broken")
    assert [r["step"] for r in resumed.record] == [3, 6]
    ours = tree_flatten(resumed.drafter.parameters())
    for (name, a), (_, b) in zip(
        ours, tree_flatten(whole.drafter.parameters()), strict=True
    ):
        assert mx.allclose(a, b, atol=1e-6).item(), name
    with pytest.raises(OptionError, match="other options"):
        Trainer(
            target,
            StubTokenizer(),
            make_examples(14),
            replace(OPTIONS, lr=1e-3),
            tmp_path / "whole",
        )
    loaded = load_drafter(tmp_path / "whole")
    assert loaded.config == whole.drafter.config


@pytest.mark.slow
def test_training_learns_a_text(target, tmp_path):
    # The same text in every example.
    row = some_prompt(30, 3)
    rows = [Example(row, [(4, 30)])] * 12
    options = replace(OPTIONS, steps=60, eval_every=60, save_every=60, lr=5e-3)
    losses, kept = [], []

    def progress(report):
        losses.append(report.loss)
        kept.append(report.acceptance)

    Trainer(target, StubTokenizer(), rows, options, tmp_path).train(progress)
    assert losses[-1] < losses[0] / 10
    assert kept[-1][0] > 0.9 and all(
        a >= b for a, b in zip(kept[-1], kept[-1][1:], strict=False)
    )


@pytest.mark.parametrize("kind", KIND_OPTIONS)
def test_a_warm_start_drafts_like_its_source(kind, target, source):
    drafter = warm_drafter(target, kind, source)
    assert draft_block(target, drafter) == draft_block(target, load_drafter(source))
    assert drafter.block_size == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [k if k == "dspark" else pytest.param(k, marks=FULL) for k in KIND_OPTIONS],
)
def test_every_kind_learns_and_is_written(kind, target, source, tmp_path):
    """40 updates on 30 texts lower the loss and change what the kind adds."""
    options = warm_options(kind, source, lr=5e-3)
    trainer = Trainer(
        target, StubTokenizer(), make_examples(32), options, tmp_path / "out"
    )
    batch = trainer.batch_at(0)
    before = loss(trainer.drafter, *trainer.loss_inputs(batch))[0].item()
    trainer.train()
    after = loss(trainer.drafter, *trainer.loss_inputs(batch))[0].item()
    assert after < 0.9 * before
    added = {
        "dflash": "fc",
        "dflash2": "candidate_selector.successor_codebook",
        "dspark": "markov_head.markov_w2",
    }
    weights = dict(tree_flatten(trainer.drafter.parameters()))
    learned = next(v for k, v in weights.items() if k.startswith(added[kind]))
    assert mx.abs(learned).max().item() > 0
    loaded = load_drafter(tmp_path / "out")
    assert type(loaded) is type(trainer.drafter)
    assert loaded.config == trainer.drafter.config


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
