"""A JSON file that keeps what was measured on each machine.

Owns the file, which several machines and programs may share. Does not know what the
entries mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder of this user's measurements."""
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return home() / caches / "dflash-mlx"


def home() -> Path:
    """The user's home folder, or one that is deleted at the end of the program."""
    return Path.home() if has_home() else Path(_temporary_home().name)


def has_home() -> bool:
    """Whether this user has a home folder: $HOME, or an entry of the system's."""
    return os.path.expanduser("~") != "~"


@functools.cache
def _temporary_home():
    return tempfile.TemporaryDirectory(prefix="dflash-mlx-")


def ignore(line: str) -> None:
    """A notice that does nothing."""


class Store:
    """The entries of one machine in a file.

    A file that cannot be read counts as empty, and an error while writing is ignored,
    since lost entries can be measured again. A file with other content than entries is
    renamed, so that nothing overwrites it.

    Args:
        machine: Description of the machine. Entries of other machines are kept in the
            file but not returned.
        file: The JSON file.
        notice: Called with one line of text if the file was damaged.
    """

    def __init__(
        self, machine: str, file: Path, notice: Callable[[str], None] = ignore
    ):
        self.machine, self.file, self.notice = machine, file, notice

    def all(self) -> dict[str, Any]:
        """This machine's entries."""
        return self._read().get(self.machine, {})

    def put(self, key: str, entry: dict[str, Any]) -> None:
        """Write one entry."""
        with self._lock():
            everything = self._read()
            everything.setdefault(self.machine, {})[key] = entry
            self._write(everything)

    def forget(self, key: str) -> None:
        """Remove one entry, if it exists."""
        with self._lock():
            everything = self._read()
            everything.get(self.machine, {}).pop(key, None)
            self._write(everything)

    def clear(self) -> int:
        """Remove this machine's entries, and return the number of them."""
        with self._lock():
            everything = self._read()
            removed = everything.pop(self.machine, {})
            if removed:
                self._write(everything)
        return len(removed)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other programs from changing the file."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = self.file.with_suffix(".lock").open("w")
        except OSError:  # the file cannot be written either
            yield
            return
        with lock:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict:
        try:
            text = self.file.read_bytes()
        except OSError:
            return {}
        try:
            everything = json.loads(text)
        except ValueError:
            everything = None
        if isinstance(everything, dict) and all(
            isinstance(entries, dict) for entries in everything.values()
        ):
            return everything
        self._set_aside()
        return {}

    def _set_aside(self) -> None:
        """Rename the damaged file. Another program may have done so just now."""
        damaged = self.file.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            self.file.replace(damaged)
            self.notice(
                f"{self.file} is damaged. It was renamed to {damaged.name}, and its "
                "measurements are made again when they are needed."
            )

    def _write(self, everything: dict) -> None:
        with contextlib.suppress(OSError):
            # Replace the file in one step: readers do not take the lock.
            new_file = self.file.with_suffix(f".{os.getpid()}")
            new_file.write_text(json.dumps(everything, indent=1, sort_keys=True))
            new_file.replace(self.file)
