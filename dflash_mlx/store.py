"""What was measured on a machine, kept in a file of this user's.

Owns the file: several machines may share it, several programs change it. Knows nothing
of what is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def folder() -> Path:
    """Where this user's measurements are kept."""
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / caches / "dflash-mlx"


class Store:
    """Entries of one machine, by what they are about.

    A file that cannot be read counts as empty, and one that cannot be written is left:
    all it costs is measuring again.

    Args:
        machine: What measurements depend on: those of others are kept, not used.
        file: Where they are kept.
    """

    def __init__(self, machine: str, file: Path):
        self.machine, self.file = machine, file

    def all(self) -> dict[str, Any]:
        """This machine's entries."""
        return self._read().get(self.machine, {})

    def put(self, about: str, entry: dict[str, Any]) -> None:
        """Keep one entry."""
        with self._alone():
            everything = self._read()
            everything.setdefault(self.machine, {})[about] = entry
            self._write(everything)

    def forget(self, about: str) -> None:
        """Forget one entry."""
        with self._alone():
            everything = self._read()
            everything.get(self.machine, {}).pop(about, None)
            self._write(everything)

    def clear(self) -> int:
        """Forget this machine's entries; how many there were."""
        with self._alone():
            everything = self._read()
            gone = everything.pop(self.machine, {})
            if gone:
                self._write(everything)
        return len(gone)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Other programs that change the file wait meanwhile."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            lock = self.file.with_suffix(".lock").open("w")
        except OSError:  # nor can the file be written then
            yield
            return
        with lock:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict:
        try:
            everything = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        ok = isinstance(everything, dict) and all(
            isinstance(entries, dict) for entries in everything.values()
        )
        return everything if ok else {}

    def _write(self, everything: dict) -> None:
        with contextlib.suppress(OSError):
            # Whole or not at all, for those who read meanwhile.
            draft = self.file.with_suffix(f".{os.getpid()}")
            draft.write_text(json.dumps(everything, indent=1, sort_keys=True))
            draft.replace(self.file)
