"""The config of a drafter to train, and the drafters that training can start from."""

from pathlib import Path

import mlx.core as mx
import pytest

from dflash_mlx.convert import Changes, convert
from dflash_mlx.errors import OptionError
from dflash_mlx.models.drafters import save_folder
from dflash_mlx.train.drafter_config import default_taps
from tests.equipment.tiny import make_drafter
from tests.equipment.training import warm_drafter


def test_default_taps_equal_the_published():
    assert default_taps(36, 5) == (1, 9, 17, 25, 33)
    assert default_taps(32, 5) == (1, 8, 15, 22, 29)
    assert default_taps(64, 5) == (1, 16, 31, 46, 61)
    assert default_taps(36, 1) == (18,)


def test_drafters_that_training_cannot_start_from(target, source, tmp_path):
    convert(Path(source), tmp_path / "quantized", Changes(4))
    with pytest.raises(OptionError, match="quantized"):
        warm_drafter(target, "dflash", str(tmp_path / "quantized"))
    dspark = warm_drafter(target, "dspark", source)
    save_folder(dspark, tmp_path / "dspark", mx.float32)
    with pytest.raises(OptionError, match="another kind"):
        warm_drafter(target, "dflash", str(tmp_path / "dspark"))
    # A drafter of the same kind keeps its head.
    again = warm_drafter(target, "dspark", str(tmp_path / "dspark"))
    assert again.config == dspark.config
    with pytest.raises(OptionError, match="markov_rank 32 contradicts"):
        warm_drafter(target, "dspark", str(tmp_path / "dspark"), rank=32)
    reduced = make_drafter(6, draft_vocab_size=40, has_lm_head=True)
    save_folder(reduced, tmp_path / "reduced", mx.float32)
    with pytest.raises(OptionError, match="reduced vocabulary"):
        warm_drafter(target, "dflash2", str(tmp_path / "reduced"))


def test_options_that_contradict_the_drafter_to_start_from(target, source):
    for change in ({"block_size": 9}, {"layers": 3}, {"taps": (0, 1)}):
        with pytest.raises(OptionError, match="contradicts"):
            warm_drafter(target, "dflash", source, **change)
