"""Downloads from a Hub on this machine, and the errors of the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_mlx.hub import download
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


@pytest.mark.full("programs")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not accept your token, which may have expired (401). Run `hf auth"),
        (403, "your token may not read it (403)."),
        (429, "too many requests from you (429). Wait"),
        (503, "the Hub has a fault (503). Try again later"),
    ],
)
def test_what_the_hub_answers_is_named(tmp_path, status, words):
    with Hub({}) as hub:
        error = load_from(hub.endpoint, tmp_path, f"{status}/model")
    assert error.startswith("MissingFilesError") and words in error


@pytest.mark.full("programs")
@pytest.mark.parametrize(
    "proxy",
    ("socks5://localhost:9", "nonsense://localhost:9", "http://localhost:9"),
)
def test_a_proxy_that_cannot_be_used(tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    error = load_from("http://elsewhere.invalid", tmp_path, "some/model")
    assert error.startswith("MissingFilesError") and "ALL_PROXY" in error


@pytest.mark.slow
def test_weights_that_are_there_twice_are_fetched_once(tmp_path, folder):
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "original").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "original" / "model.safetensors")
    with Hub({"org/tiny": folder}) as hub:
        first = load_from(hub.endpoint, tmp_path / "home", "org/tiny", "none")
    assert first == "drafting is off"
    fetched = [r for r in hub.requests if r.startswith("GET") and "safetensors" in r]
    assert len(fetched) == 1
    again = load_from("http://127.0.0.1:9", tmp_path / "home", "org/tiny", "none")
    assert again == "drafting is off"


@pytest.mark.slow
def test_a_repository_with_an_outdated_index_is_asked_for_once(tmp_path, folder):
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with Hub({"org/tiny": folder}) as hub:
        for _ in range(2):
            found = load_from(hub.endpoint, tmp_path / "home", "org/tiny", "none")
            assert found == "drafting is off"
            requests = list(hub.requests)
            hub.requests.clear()
    assert not requests


@pytest.mark.slow
def test_a_drafter_whose_weights_have_another_name_is_fetched(tmp_path, folder):
    drafter = folder / "drafter"
    (drafter / "model.safetensors").rename(drafter / "dspark.safetensors")
    with Hub({"org/tiny": folder, "org/draft": drafter}) as hub:
        assert load_from(hub.endpoint, tmp_path, "org/tiny", "org/draft") == "drafter"
    again = load_from("http://127.0.0.1:9", tmp_path, "org/tiny", "org/draft")
    assert again == "drafter"


def test_a_repository_is_removed_although_others_have_its_commits(
    tmp_path, monkeypatch
):
    """A copy on the Hub has the same commits under another name."""
    names = ["me/model", *(f"copy{i}/model" for i in range(12))]
    for name in names:
        folder = tmp_path / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0" * 40)
    scan = download.scan_cache_dir
    monkeypatch.setattr(download, "scan_cache_dir", lambda: scan(tmp_path))
    assert download.remove_repositories({"me/model"}) == 2
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {f"models--{name.replace('/', '--')}" for name in names[1:]}
