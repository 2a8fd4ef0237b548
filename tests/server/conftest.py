"""One server with the embedded pair for all tests of a module."""

import pytest

from dflash_mlx import load
from tests.equipment.live_server import LiveServer


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def server(tiny):
    with LiveServer(*tiny, others=("second",), aliases={"claude-*": "tiny"}) as live:
        yield live
