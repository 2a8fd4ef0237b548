"""One server with the embedded pair for all tests of a module."""

import pytest

from dflash_mlx import load
from dflash_mlx.server.settings import Access, Decoding, Settings
from tests.equipment.live_server import LiveServer


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def server(tiny):
    # Blocks of a fixed size, since a slow machine may choose to draft nothing.
    settings = Settings(access=Access(port=0), decoding=Decoding(block_size=8))
    aliases = {"claude-*": "tiny"}
    with LiveServer(*tiny, settings, others=("second",), aliases=aliases) as live:
        yield live
