"""Options of a training run."""

import pytest

from dflash_mlx.errors import OptionError
from dflash_mlx.train.options import TrainOptions


def test_options_out_of_range_are_refused():
    wrong = {"steps": 0, "block_size": 1, "lr": 0, "held_out": 0, "rank": 0}
    wrong |= {"kind": "eagle", "markov_head": "lstm"}
    for bad in ({name: value} for name, value in wrong.items()):
        with pytest.raises(OptionError, match=next(iter(bad))):
            TrainOptions(**bad)
