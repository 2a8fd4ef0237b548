"""A folder of compiled results, shared by all clones and processes of a user.

Owns where the folder lies, how an entry gets there, and when old entries are removed.
Names are hashes of contents, so the paths of a clone do not matter. Knows no compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO
from uuid import uuid4

NAME = "dflash-mlx-emulator"
# What is kept: the toolchains (one compiler, one MLX, one runtime) and, for each, the
# programs that were used last. A program has about 30 kB.
MAX_TOOLCHAINS, MAX_PROGRAMS = 3, 3000
UNFINISHED = ".unfinished"
# Read at import, because tests may change it later.
XDG_CACHE_HOME = os.environ.get("XDG_CACHE_HOME", "")

_locks: list[IO] = []


@cache
def root() -> Path:
    """The user's cache folder, or the temporary folder if that cannot be written.

    The home is the account's and not $HOME, which tests change.
    """
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
        absolute = os.path.isabs(XDG_CACHE_HOME)
        folder = Path(XDG_CACHE_HOME) if absolute else Path(home, ".cache")
        (folder / NAME).mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder / NAME):
            return folder / NAME
    except (OSError, KeyError):
        folder = Path(tempfile.gettempdir()) / f"{NAME}-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder


def digest(*parts: str) -> str:
    """A name for the result that is made from these parts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()[:24]


def open_toolchain(key: str) -> Path:
    """The folder for the results of one toolchain, with a subfolder `programs`.

    Until this process ends, no other process removes entries. Old ones are removed now,
    unless another process uses the cache.
    """
    folder = root() / key
    lock = (root() / "lock").open("w")
    _locks.append(lock)
    with contextlib.suppress(OSError):  # some file systems have no locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / "programs").mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
        remove_old(root(), MAX_TOOLCHAINS)
        remove_old(folder / "programs", MAX_PROGRAMS)
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    (folder / "programs").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.utime(folder)
    return folder


def remove_old(folder: Path, most: int) -> None:
    """Remove all but the `most` entries that were used last, and unfinished ones."""
    entries = [path for path in folder.iterdir() if path.name != "lock"]
    entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for i, path in enumerate(entries):
        if i >= most or UNFINISHED in path.name:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def entry(path: Path, make: Callable[[Path], None]) -> Path:
    """The file or folder `path` in the cache, made if it is missing.

    It is made under another name and then renamed: processes may share the cache.

    Args:
        path: Its name contains a digest of everything that it depends on.
        make: make(other) writes the entry to `other`, or raises.
    """
    if path.exists():
        os.utime(path)
        return path
    unfinished = path.with_name(f"{path.name}{UNFINISHED}-{uuid4().hex[:8]}")
    try:
        make(unfinished)
        unfinished.rename(path)
    except OSError:
        if not path.is_dir():  # else another process has made the folder
            raise
    finally:
        remove(unfinished)
    return path
