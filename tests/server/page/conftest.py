"""One browser and one stand-in for the server for all tests of the chat page."""

import re

import pytest

from tests.equipment import chromium
from tests.equipment.chat_server import ChatServer
from tests.equipment.chromium import Chromium


@pytest.fixture(scope="package")
def browser():
    if not chromium.executable():
        pytest.skip("no Chromium: `apt install chromium`")
    with Chromium() as running:
        yield running


@pytest.fixture(scope="package")
def running_server():
    with ChatServer() as running:
        yield running


@pytest.fixture
def server(running_server):
    running_server.reset()
    return running_server


@pytest.fixture(scope="package")
def tab(browser, running_server):
    with browser.open(running_server.url) as opened:
        yield opened


@pytest.fixture
def fresh(tab, server):
    """The page as at a first visit; what it did is checked after the test."""
    tab.js("localStorage.clear(); sessionStorage.clear()")
    tab.requests.clear()
    tab.prefer("light")
    tab.resize(1100, 800)
    tab.reload()
    yield tab
    assert not tab.errors
    hosts = {re.match(r"\w+:(//[^/]*)?", url)[0] for url in tab.requests}
    assert hosts <= {server.url.rstrip("/"), "data:", "blob:"}


@pytest.fixture
def page(fresh):
    fresh.wait("models.length && server.kind === 'ready'")
    return fresh
