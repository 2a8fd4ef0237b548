"""Downloads: the notices before them, what is refused, and what is fetched."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from dflash_mlx import device, load
from dflash_mlx.errors import MissingFilesError, NotEnoughDiskError
from dflash_mlx.hub import download as hub
from dflash_mlx.hub import registry
from dflash_mlx.hub.download import Plan
from dflash_mlx.hub.find import TINY_FOLDER
from dflash_mlx.terminal import download
from tests.equipment.hub_server import Hub
from tests.equipment.tiny import write

GIB = 2**30

# Fetches in a process of its own, since the Hub's address is read at import.
CODE = """
import json, sys
from dflash_mlx import device
from dflash_mlx.hub import download as hub
from dflash_mlx.errors import DFlashError
from dflash_mlx.terminal.download import fetch
free, memory, *arguments = sys.argv[1:]
if free: hub.shutil.disk_usage = lambda path: type("U", (), {"free": int(free)})
if memory: device.memory_bytes = lambda: int(memory)
lines, failed = [], ""
try:
    fetch(*[a or None for a in arguments], notice=lines.append)
except DFlashError as error:
    failed = f"{type(error).__name__} {error}"
print(json.dumps([lines, failed]))
"""


@pytest.fixture
def folder(tmp_path):
    away = shutil.ignore_patterns("drafter", "dflash2")
    shutil.copytree(TINY_FOLDER, tmp_path / "tiny", ignore=away)
    return tmp_path / "tiny"


@pytest.fixture
def served(folder):
    with Hub({"org/tiny": folder, "org/draft": TINY_FOLDER / "drafter"}) as server:
        yield server


def fetch(endpoint, home, *arguments, free="", memory=""):
    env = dict(os.environ, HF_ENDPOINT=endpoint, HF_HOME=str(home))
    env["HF_HUB_DISABLE_XET"] = "1"
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(free), str(memory), *arguments],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and run.stderr == "", run.stderr
    return json.loads(run.stdout)


def fetched(server) -> list[str]:
    """Requests that downloaded a large file."""
    return [
        line for line in server.requests if line.startswith("GET") and "model.s" in line
    ]


@pytest.mark.slow
def test_a_pair_is_announced_then_fetched_then_cached(served, folder, tmp_path):
    arguments = (served.endpoint, tmp_path / "home", "org/tiny", "org/draft")
    lines, failed = fetch(*arguments)
    assert not failed and len(lines) == 2
    weights = folder / "model.safetensors"
    assert lines[0].startswith("Downloading org/tiny (") and "org/draft (" in lines[0]
    size_shown = float(lines[0].split("org/tiny (")[1].split(" MiB")[0])
    assert size_shown >= weights.stat().st_size / 2**20 - 0.1
    assert "Disk: " in lines[1] and "8192 tokens of context" in lines[1]
    assert len(fetched(served)) == 2
    served.requests.clear()
    assert fetch(*arguments) == [[], ""] and not served.requests


@pytest.mark.full("programs")
def test_cached_files_are_not_counted(served, tmp_path):
    arguments = (served.endpoint, tmp_path / "home", "org/tiny", "none")
    fetch(*arguments)
    for file in (tmp_path / "home").rglob("model.safetensors"):
        # The link and its target.
        file.resolve().unlink()
        file.unlink()
    served.requests.clear()
    lines, failed = fetch(*arguments)
    assert not failed and "KiB of it downloaded already" in lines[0]
    assert len(fetched(served)) == 1


@pytest.mark.slow
def test_a_target_with_an_embedded_drafter_needs_no_other(served, folder, tmp_path):
    """A copy of the embedded target is recognised by its sizes."""
    lines, failed = fetch(served.endpoint, tmp_path / "home", "org/tiny")
    assert not failed and "org/draft" not in lines[0]


@pytest.mark.slow
def test_a_disk_that_is_too_small(served, tmp_path):
    arguments = (served.endpoint, tmp_path / "home", "org/tiny")
    lines, failed = fetch(*arguments, free=2**20)
    assert failed.startswith("NotEnoughDiskError The download needs")
    assert "HF_HOME" in failed and "1.0 MiB left" in failed
    assert not fetched(served)


@pytest.mark.slow
def test_memory_that_is_too_small_for_the_weights_is_refused_before_the_download(
    served, tmp_path
):
    arguments = (served.endpoint, tmp_path / "home", "org/tiny")
    _, failed = fetch(*arguments, memory=2**20)
    assert failed.startswith("NotEnoughMemoryError") and not fetched(served)


@pytest.mark.slow
def test_memory_that_is_too_small_for_a_conversation_is_a_warning(served, tmp_path):
    size = 2**20 + (TINY_FOLDER / "model.safetensors").stat().st_size
    arguments = (served.endpoint, tmp_path / "home", "org/tiny")
    lines, failed = fetch(*arguments, memory=size)
    assert not failed and lines[2].startswith("Warning: ") and "--kv-bits" in lines[2]
    assert len(fetched(served)) == 1


@pytest.mark.full("programs")
def test_what_the_hub_refuses(served, tmp_path):
    _, failed = fetch(served.endpoint, tmp_path, "gated/model")
    assert failed.startswith("MissingFilesError gated/model is gated.")
    _, failed = fetch(served.endpoint, tmp_path, "missing/model")
    assert "There is no repository missing/model" in failed
    _, failed = fetch(served.endpoint, tmp_path, "org/tiny", "gated/draft")
    assert "gated/draft is gated." in failed
    _, failed = fetch("http://127.0.0.1:9", tmp_path / "new", "some/model")
    assert "some/model is not in the local cache" in failed


def test_the_embedded_pair_and_folders_need_nothing(monkeypatch, folder):
    def fail(*_, **__):
        raise AssertionError("the Hub was requested")

    for name in ("plan", "fetch_file", "download", "cached_folder"):
        monkeypatch.setattr(hub, name, fail)
    for model in ("tiny", str(folder)):
        download.fetch(model, notice=fail)


def notices_of(plan, context, monkeypatch, free, memory):
    """The lines for a download into so much free disk and memory."""
    monkeypatch.setattr(hub, "free_bytes", lambda: (free, Path("/cache")))
    monkeypatch.setattr(device, "memory_bytes", lambda: memory)
    lines = []
    download.report_plans([plan], context, lines.append)
    return lines


def test_the_notices(monkeypatch):
    plan = Plan("org/big", None, 5 * GIB, GIB, 5 * GIB - 2**20)
    assert notices_of(plan, 2 * GIB, monkeypatch, 90 * GIB, 8 * GIB) == [
        "Downloading org/big (5.0 GiB, 1.0 GiB of it downloaded already).",
        "Disk: 4.0 GiB needed, 90.0 GiB free in /cache. Memory: 5.0 GiB for weights "
        "and about 2.0 GiB for 8192 tokens of context, 8.0 GiB available.",
    ]
    assert notices_of(plan, 2 * GIB, monkeypatch, 4 * GIB, 6 * GIB)[2].startswith(
        "Warning"
    )
    with pytest.raises(NotEnoughDiskError, match="needs 4.0 GiB"):
        notices_of(plan, 0, monkeypatch, 4 * GIB - 1, 8 * GIB)


QWEN3_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@pytest.mark.parametrize(
    ("changes", "bytes_of_a_token"),
    [
        ({}, 2 * 2 * 36 * 8 * 128),
        ({"head_dim": None}, 2 * 2 * 36 * 8 * 128),
        ({"full_attention_interval": 4}, 2 * 2 * 9 * 8 * 128),
        ({"layer_types": ["full_attention", "sliding_attention"]}, 2 * 2 * 8 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 2 * 36 * 576),
        ({"num_attention_heads": None}, 0),
    ],
)
def test_bytes_of_the_kv_cache(changes, bytes_of_a_token):
    config = QWEN3_8B | changes
    assert download.kv_bytes(config, 10) == 10 * bytes_of_a_token
    assert download.kv_bytes({"text_config": config}, 10) == 10 * bytes_of_a_token


def test_the_estimate_equals_the_size_of_the_cache():
    pair, _ = load("tiny", "none")
    cache = make_prompt_cache(pair.model)
    pair.model(mx.zeros((1, 256), dtype=mx.int32), cache=cache)
    rows = sum(array.nbytes for each in cache for array in each.state[:2])
    config = json.loads((TINY_FOLDER / "config.json").read_text())
    width = cache[0].state[0].dtype.size / download.BYTES_PER_VALUE
    assert download.kv_bytes(config, 256) * width == rows


TARGET, DRAFTER = "org/Qwen3-8B-copy", registry.resolve_drafter("qwen3-8b")


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """A function that replaces the Hub by one with a known target and its drafter.

    It takes the repositories that the Hub lacks and the downloads that fail, and
    returns the list of what is fetched.
    """

    def make(lacking=(), failing=()):
        fetched = []

        def plan(name, revision=None):
            return None if name in lacking else Plan(name, revision, 9, 0, 5)

        def fetch_one(name, *_):
            if name in (*lacking, *failing):
                raise MissingFilesError(f"{name} is not available.")
            fetched.append(name)

        numbers = {"model_type": "qwen3", "vocab_size": 151936}
        config = write(tmp_path / "target", QWEN3_8B | numbers) / "config.json"
        monkeypatch.setattr(hub, "cached_folder", lambda *_: None)
        monkeypatch.setattr(hub, "fetch_file", lambda *_: config)
        monkeypatch.setattr(hub, "plan", plan)
        monkeypatch.setattr(hub, "download", fetch_one)
        return fetched

    return make


@pytest.mark.parametrize("failure", ("lacking", "failing"))
@pytest.mark.parametrize("draft", (None, DRAFTER))
@pytest.mark.parametrize("gone", (TARGET, DRAFTER))
def test_only_a_drafter_that_was_not_named_may_be_missing(
    fake_hub, failure, draft, gone
):
    """The repository is missing, or its download fails after it was planned."""
    fetched = fake_hub(**{failure: (gone,)})
    needed = gone == TARGET or draft
    fails = pytest.raises(MissingFilesError, match=f"{gone} is not available")
    with fails if needed else contextlib.nullcontext():
        download.fetch(TARGET, draft, notice=str, show_progress=False)
    assert needed or fetched == [TARGET]


def test_a_known_drafter_is_fetched_with_its_target(fake_hub):
    fetched, lines = fake_hub(), []
    download.fetch(TARGET, notice=lines.append, show_progress=False)
    assert fetched == [TARGET, DRAFTER] and len(lines) == 2


def test_recurrent_and_window_layers_are_not_counted():
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    assert download.full_attention_layers({"layer_types": kinds * 2}) == 2
    kinds = ["sliding_attention", "chunked_attention", "full_attention"]
    assert download.full_attention_layers({"layer_types": kinds}) == 1
