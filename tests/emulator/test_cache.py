"""Compiled results are shared by processes and clones, and old ones are removed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.emulator import cache

# Runs three kernels. Its arguments: the folder with the emulator, and whether clang may
# run.
WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import emulator.compiler, mlx.core as mx
if sys.argv[2] == "without clang":
    del emulator.compiler.clang
for i in range(3):
    body, header = f"y[0] = x[0] + {i};", "#include <metal_stdlib>\\n"
    kernel = emulator.metal_kernel("t", ["x"], ["y"], body, header)
    call = dict(grid=(1, 1, 1), threadgroup=(1, 1, 1))
    call |= dict(output_shapes=[(1,)], output_dtypes=[mx.float32])
    assert kernel(inputs=[mx.zeros(8)], **call)[0].item() == i
"""


def start(folder, caches, clang="with clang", **variables):
    """A process that runs WORKER."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), clang],
        env=os.environ | {"XDG_CACHE_HOME": str(caches)} | variables,
    )


def clone(folder):
    """A copy of the emulator, with new dates."""
    ignore = shutil.ignore_patterns("__pycache__")
    copy = folder / "emulator"
    shutil.copytree(
        Path(__file__).parent, copy, ignore=ignore, copy_function=shutil.copy
    )
    return folder


@pytest.mark.slow
def test_two_processes_fill_one_cache(metal, tmp_path):
    here = Path(__file__).parent.parent
    workers = [start(here, tmp_path) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    (toolchain,) = (f for f in (tmp_path / cache.NAME).iterdir() if f.is_dir())
    kinds = sorted(path.name.split(".", 1)[-1] for path in toolchain.iterdir())
    assert kinds == ["headers", "pch", "programs", "so"]
    programs = [f.suffix for f in (toolchain / "programs").iterdir()]
    assert programs == [".so", ".so", ".so"]


@pytest.mark.slow
def test_a_second_clone_compiles_nothing(metal, tmp_path):
    """The path of a clone, the dates of its files and $HOME do not matter."""
    first, second = clone(tmp_path / "first"), clone(tmp_path / "deeper" / "second")
    for file in (second / "emulator").rglob("*"):
        os.utime(file, (1, 1))
    caches = tmp_path / "caches"
    assert start(first, caches, "without clang").wait() != 0
    assert start(first, caches).wait() == 0
    shutil.rmtree(first)
    assert start(second, caches, "without clang", HOME=str(tmp_path)).wait() == 0


@pytest.mark.slow
def test_a_prefix_is_used_by_clones_with_other_dates(metal, tmp_path):
    tree, caches = clone(tmp_path / "tree"), tmp_path / "caches"
    assert start(tree, caches).wait() == 0
    for program in caches.rglob("programs/*"):
        program.unlink()
    for header in (tree / "emulator/runtime").rglob("*"):
        os.utime(header, (1, 1))
    assert start(tree, caches).wait() == 0


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty cache, as a new process would open it."""
    monkeypatch.setattr(cache, "XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_locks", [])
    cache.root.cache_clear()
    yield cache.root()
    for lock in cache._locks:
        lock.close()
    cache.root.cache_clear()


def test_the_folder_does_not_depend_on_home(root, tmp_path, monkeypatch):
    assert root == tmp_path / cache.NAME
    for folder in ("", "relative"):
        monkeypatch.setattr(cache, "XDG_CACHE_HOME", folder)
        found = []
        for home in (tmp_path / "one", tmp_path / "two"):
            monkeypatch.setenv("HOME", str(home))
            cache.root.cache_clear()
            found.append(cache.root())
        assert found[0] == found[1] and tmp_path not in found[0].parents


def test_a_cache_that_cannot_be_written_lies_in_the_temporary_folder(
    root, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    cache.root.cache_clear()
    assert cache.root() == tmp_path / f"{cache.NAME}-{os.getuid()}"


def fill(folder, names):
    """Write entries, the first ones used last."""
    for age, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (time.time() - 1000 - age,) * 2)


def left(folder):
    return {path.name for path in folder.iterdir()}


def test_programs_that_were_used_last_are_kept(root, monkeypatch):
    monkeypatch.setattr(cache, "MAX_PROGRAMS", 3)
    programs = cache.open_toolchain("key") / "programs"
    fill(programs, ["a", "b", f"c{cache.UNFINISHED}-1", "d", "e"])
    cache.entry(programs / "e", make=None)
    cache._locks.pop().close()
    cache.open_toolchain("key")
    assert left(programs) == {"a", "b", "e"}


def test_toolchains_that_were_used_last_are_kept(root, monkeypatch):
    monkeypatch.setattr(cache, "MAX_TOOLCHAINS", 2)
    for age, key in enumerate("abc"):
        fill(root / key, ["executor.so"])
        os.utime(root / key, (time.time() - 1000 - age,) * 2)
    cache.open_toolchain("c")
    assert left(root) == {"a", "c", "lock"}


def test_nothing_is_removed_while_another_process_uses_the_cache(root, monkeypatch):
    monkeypatch.setattr(cache, "MAX_PROGRAMS", 1)
    programs = cache.open_toolchain("key") / "programs"  # holds the lock
    fill(programs, ["a", "b"])
    cache.open_toolchain("key")
    assert left(programs) == {"a", "b"}


def test_an_entry_that_fails_is_not_kept(root):
    def make(path):
        path.write_text("half")
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        cache.entry(root / "a", make)
    assert not left(root)


def test_digests_distinguish_where_parts_end():
    assert cache.digest("ab", "c") != cache.digest("a", "bc") != cache.digest("abc")
