"""Fixtures: a target, and a drafter to start from."""

import mlx.core as mx
import pytest

from dflash_mlx import Pair
from dflash_mlx.models.drafters import save_folder
from tests.equipment.tiny import SHAPE, make_drafter, make_model


@pytest.fixture(scope="module")
def target():
    """A random target without a drafter."""
    model = make_model("llama")
    return Pair.of(model, None, SHAPE | {"model_type": "llama"})


@pytest.fixture
def source(target, tmp_path):
    """The folder of a random DFlash drafter."""
    drafter = make_drafter(block_size=6)
    save_folder(drafter, tmp_path / "source", mx.float32)
    return str(tmp_path / "source")
