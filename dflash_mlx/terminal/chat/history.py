"""The lines typed in earlier sessions: a file with one JSON string per line.

Owns the file, which several chats may share. Does not know conversations.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable
from itertools import chain, count
from pathlib import Path

from prompt_toolkit.history import History

from ...store import home

# A file with more than MAX_ENTRIES is cut to its last KEPT_ENTRIES when a chat starts.
MAX_ENTRIES, KEPT_ENTRIES = 2000, 1000


def data_folder() -> Path:
    """The folder for this user's data."""
    data = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    return home() / data / "dflash-mlx"


class FileHistory(History):
    """prompt_toolkit's history, stored in a file that only its owner may read.

    If the file cannot be read or written, a notice is printed once and nothing more is
    stored.

    Args:
        file: The file.
        notice: Called with a message if the file is damaged or cannot be used.
    """

    def __init__(self, file: Path, notice: Callable[[str], None]):
        super().__init__()
        self.file, self.notice, self.usable = file, notice, True
        self.entries: list[str] = []
        self._locked(self._open)

    def load_history_strings(self) -> Iterable[str]:
        """The stored lines, newest first; prompt_toolkit calls this once."""
        return reversed(self.entries)

    def store_string(self, string: str) -> None:
        """Store a line; prompt_toolkit calls this for every line entered."""
        self._locked(lambda: append_entries(self.file, [string]))

    def _open(self) -> None:
        """Read the file; rename it if it is damaged, and cut it if it is long."""
        if not self.file.exists():
            return
        entries, valid = read_entries(self.file)
        if not valid:
            renamed = set_aside(self.file)
            append_entries(self.file, entries)
            self.notice(
                f"The history of typed lines was damaged. It was renamed to {renamed}; "
                f"{len(entries)} of its lines could be recovered."
            )
        elif len(entries) > MAX_ENTRIES:
            entries = entries[-KEPT_ENTRIES:]
            partial = self.file.with_suffix(f".{os.getpid()}")
            partial.unlink(missing_ok=True)
            append_entries(partial, entries)
            partial.replace(self.file)
        self.entries = entries

    def _locked(self, action: Callable[[], None]) -> None:
        """Run an action while other chats wait; after a failure, never again."""
        if not self.usable:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.file.with_suffix(".lock").open("w") as lock:
                with contextlib.suppress(OSError):  # some file systems have no locks
                    fcntl.flock(lock, fcntl.LOCK_EX)
                action()
        except OSError as error:
            self.usable = False
            self.notice(
                f"The history of typed lines cannot be kept: {self.file}: "
                f"{error.strerror}."
            )


def read_entries(file: Path) -> tuple[list[str], bool]:
    """The strings in a file, oldest first, and whether all its lines are valid."""
    entries, valid = [], True
    for line in file.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, str):
            entries.append(entry)
        else:
            valid = False
    return entries, valid


def append_entries(file: Path, entries: list[str]) -> None:
    """Append strings to a file, and make it readable by its owner only."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="ascii") as out:
        os.fchmod(out.fileno(), 0o600)
        out.writelines(json.dumps(entry) + "\n" for entry in entries)


def set_aside(file: Path) -> Path:
    """Rename a damaged file to NAME.broken, or NAME.broken-2 and so on if that exists.

    Returns:
        The new path.

    Raises:
        OSError: The file cannot be renamed.
    """
    first = file.with_name(f"{file.name}.broken")
    others = (first.with_name(f"{first.name}-{n}") for n in count(2))
    free = next(path for path in chain([first], others) if not path.exists())
    return file.replace(free)
