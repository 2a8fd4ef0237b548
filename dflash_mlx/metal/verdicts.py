"""Which operation runs a shape on this machine: measured once, kept in a file.

Owns the file of verdicts and the question what they depend on. Knows no kernel.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

STOCK = "stock"


@dataclass(frozen=True)
class Verdict:
    """What was found for calls of one shape.

    Args:
        choice: Name of the kernel that runs them, or "stock".
        why: In a few words.
        microseconds: Of one call, by candidate; empty where nothing was raced.
    """

    choice: str
    why: str
    microseconds: dict[str, float] = field(default_factory=dict)


def default_file() -> Path:
    """Where this user's verdicts are kept."""
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return Path.home() / caches / "dflash-mlx" / "kernels.json"


class Verdicts:
    """The verdicts of one machine, in a file that several machines may share.

    A file that cannot be read counts as empty, and one that cannot be written is left:
    all it costs is measuring again.

    Args:
        machine: Chip and versions; verdicts of other machines are kept, not used.
        file: Where they are kept.
    """

    def __init__(self, machine: str, file: Path):
        self.machine, self.file = machine, file

    def all(self) -> dict[str, Verdict]:
        """This machine's verdicts by what they are about."""
        found = {}
        for about, entry in self._read().get(self.machine, {}).items():
            with contextlib.suppress(TypeError):
                verdict = Verdict(**entry)
                if isinstance(verdict.choice, str):
                    found[about] = verdict
        return found

    def put(self, about: str, verdict: Verdict) -> None:
        """Keep one verdict."""
        with self._alone():
            everything = self._read()
            everything.setdefault(self.machine, {})[about] = asdict(verdict)
            self._write(everything)

    def forget(self, about: str) -> None:
        """Forget one verdict."""
        with self._alone():
            everything = self._read()
            everything.get(self.machine, {}).pop(about, None)
            self._write(everything)

    def clear(self) -> int:
        """Forget this machine's verdicts; how many there were."""
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
