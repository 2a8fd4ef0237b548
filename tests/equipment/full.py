"""Tests marked `full`: whole grids, run when what they test has changed, or on request.

A mark names a group, and a group the files that its tests depend on. tests/full.json
records a digest of those files, and of the mlx and mlx-lm versions, for the last time
that the group passed. A pytest plugin:

    pytest                  leaves `full` tests out
    pytest --full all       runs them too, and records the digests if all pass
    pytest --full changed   runs nothing but the groups whose digest is not recorded
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "full.json"
# Folders and files that the tests of a group depend on.
GROUPS = {
    "chat": (
        "dflash_mlx/cache",
        "dflash_mlx/decoding",
        "dflash_mlx/models/targets",
        "dflash_mlx/terminal/chat",
        "dflash_mlx/text",
        "tests/equipment/turns.py",
        "tests/terminal/chat",
    ),
    "loop": (
        "dflash_mlx/cache",
        "dflash_mlx/decoding",
        "dflash_mlx/models",
        "dflash_mlx/speculation",
        "dflash_mlx/text",
        "tests/cache",
        "tests/decoding",
        "tests/metal/test_failures.py",
        "tests/models/drafters",
    ),
    "metal": ("dflash_mlx/metal", "tests/emulator", "tests/metal"),
    "probe": (
        "dflash_mlx/bench/probe.py",
        "dflash_mlx/convert.py",
        "dflash_mlx/models/drafters",
        "tests/terminal/test_drafters.py",
    ),
    # Tests that take seconds each: processes, downloads, training, large shapes.
    "programs": ("dflash_mlx", "benchmarks", "tests"),
    "server": ("dflash_mlx/server", "tests/equipment/live_server.py", "tests/server"),
    "speculation": (
        "dflash_mlx/speculation",
        "tests/equipment/simulator.py",
        "tests/speculation",
    ),
    "targets": (
        "dflash_mlx/models/targets",
        "dflash_mlx/cache",
        "dflash_mlx/decoding",
        "dflash_mlx/rebind.py",
        "dflash_mlx/hub/architectures.toml",
        "benchmarks/examine.py",
        "tests/models/targets",
        "tests/equipment",
    ),
}
# Files of a folder that count.
KEPT = {".py", ".metal", ".toml", ".h", ".cpp", ""}


def digest(group: str) -> str:
    """A digest of everything that the tests of a group depend on."""
    seen = hashlib.sha256()
    for name in ("mlx", "mlx-lm"):
        seen.update(f"{name} {version(name)}\n".encode())
    for place in GROUPS[group]:
        root = ROOT / place
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        for file in files:
            if file.is_file() and file.suffix in KEPT:
                seen.update(f"{file.relative_to(ROOT)}\n".encode())
                seen.update(file.read_bytes())
    return seen.hexdigest()


def recorded() -> dict[str, str]:
    """The digests of the groups that passed last."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def changed() -> set[str]:
    """Groups whose files are not those that passed last."""
    passed = recorded()
    return {group for group in GROUPS if passed.get(group) != digest(group)}


def thinned(first: Iterable, second: Iterable, group: str, every: int) -> list:
    """Parameters (a, b) for all pairs. One pair in `every` runs always, along diagonals
    of the grid; the others are marked `full`."""
    second = list(second)
    return [
        pytest.param(
            a,
            b,
            marks=() if (i + j) % every == 0 else pytest.mark.full(group),
            id=f"{label(a)}-{label(b)}",
        )
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]


def label(value: object) -> str:
    """A parameter in a test's name."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        choices=("none", "changed", "all"),
        default="none",
        help="which tests marked `full` run: none, those of changed groups, all",
    )


def pytest_collection_modifyitems(config, items):
    mode = config.getoption("--full")
    groups = {"none": set(), "changed": changed(), "all": set(GROUPS)}[mode]
    kept, left = [], []
    for item in items:
        mark = item.get_closest_marker("full")
        if mark is not None:
            (group,) = mark.args
            assert group in GROUPS, f"{item.nodeid}: no group {group!r}"
            run = group in groups
        else:
            run = mode != "changed"
        (kept if run else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def is_partial(config) -> bool:
    """Whether the run leaves out tests for another reason than its `--full`."""
    options = ("collectonly", "keyword", "markexpr", "deselect", "lf", "ignore")
    chosen = any(config.getoption(name) for name in options)
    return chosen or config.args != config.getini("testpaths")


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    mode, worker = config.getoption("--full"), "PYTEST_XDIST_WORKER" in os.environ
    if worker or mode == "none" or is_partial(config):
        return
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and mode == "changed":
        session.exitstatus = pytest.ExitCode.OK
    elif exitstatus == pytest.ExitCode.OK:
        passed = {group: digest(group) for group in GROUPS}
        RECORD.write_text(json.dumps(passed, indent=2) + "\n")
