"""Fixtures of several tests of decoding."""

import pytest

from dflash_mlx.decoding import loop
from tests.equipment.random_controller import SEEDS, RandomController


@pytest.fixture(params=SEEDS)
def controllers(request, monkeypatch):
    """Widths that change every round."""
    monkeypatch.setattr(RandomController, "seed", request.param)
    monkeypatch.setattr(RandomController, "made", [])
    monkeypatch.setattr(loop, "Controller", RandomController)
    return RandomController
