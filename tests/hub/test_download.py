"""Downloads from a Hub on this machine, and the errors of the Hub."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.equipment.hub_server import Hub

# Loads in a process of its own, since the Hub's address is read at import.
CODE = """
import sys
from dflash_mlx import load
from dflash_mlx.errors import DFlashError
try:
    pair, _ = load(*sys.argv[1:])
    print("drafter" if pair.drafter else pair.reason)
except DFlashError as error:
    print(type(error).__name__, error)
"""


def load_from(endpoint: str, home: Path, *arguments: str) -> str:
    """Load a target (and drafter): "drafter", why there is none, or the error."""
    env = dict(os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(home))
    run = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env=env,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip() or run.stderr


@pytest.mark.slow
def test_a_download_is_cached_and_completed(tmp_path, folder):
    repos = {"org/tiny": folder, "org/draft": folder / "drafter"}
    with Hub(repos) as hub:
        first = load_from(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert first == "drafter"
        assert any(path.endswith("model.safetensors") for path in hub.requests)
        hub.requests.clear()
        again = load_from(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert again == "drafter" and not hub.requests
        # An incomplete copy in the cache is completed.
        for file in (tmp_path / "home").rglob("model.safetensors"):
            file.unlink()
        again = load_from(hub.endpoint, tmp_path / "home", "org/tiny", "org/draft")
        assert again == "drafter" and hub.requests
    refusing = "http://127.0.0.1:9"
    assert load_from(refusing, tmp_path / "home", "org/tiny", "org/draft") == "drafter"


@pytest.mark.full("programs")
def test_errors_of_the_hub(tmp_path):
    with Hub({}) as hub:
        error = load_from(hub.endpoint, tmp_path, "gated/model")
        assert error.startswith("MissingFilesError gated/model is gated.")
        error = load_from(hub.endpoint, tmp_path, "missing/model")
        assert "There is no repository missing/model" in error
    error = load_from("http://127.0.0.1:9", tmp_path, "some/model")
    assert "some/model is not in the local cache" in error and "folder" in error
