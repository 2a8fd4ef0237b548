"""The recipe of the embedded pair: the options of each stage, and the target's text."""

from itertools import islice
from random import Random

import pytest
from tokenizers import Tokenizer

from dflash_mlx import load
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.train import tiny
from dflash_mlx.train.trainer import initial_drafter


@pytest.mark.parametrize(
    ("stage", "kind", "rank"),
    [
        ("drafter", "dflash", None),
        ("dflash2", "dflash2", 16),
        ("head-dflash", "dflash", None),
        ("head-dflash2", "dflash2", 64),
        ("head-dspark", "dspark", 64),
    ],
)
def test_every_stage_of_a_drafter_can_start(stage, kind, rank, monkeypatch):
    runs = []
    monkeypatch.setattr(tiny, "train_drafter", lambda *run: runs.append(run))
    for name in ("load_folder", "quantize_linear", "save_folder"):
        monkeypatch.setattr(tiny, name, lambda *_: None)
    tiny.STAGES[stage](TINY_FOLDER)
    ((folder, _, options),) = runs
    assert folder == TINY_FOLDER
    assert (options.kind, options.rank, options.seed) == (kind, rank, tiny.SEED)
    assert (options.warm_start is None) == (stage == "drafter")
    drafter = initial_drafter(*load("tiny", "none", kernels="off"), options)
    assert drafter.taps == tiny.DRAFTER.taps
    assert drafter.block_size == tiny.DRAFTER.block_size


def test_the_targets_text_weighs_answers_and_their_end():
    tokenizer = Tokenizer.from_file(str(TINY_FOLDER / "tokenizer.json"))
    rows = list(islice(tiny.windows(tokenizer, Random(0), 192), 5))
    for ids, weights in rows:
        assert len(ids) == len(weights) == 193
        ends = [i for i, weight in enumerate(weights) if weight == 3]
        assert ends and all(ids[i] == tiny.STOP for i in ends)
