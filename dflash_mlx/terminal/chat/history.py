"""What was typed in earlier sessions: a file with one JSON text a line.

Owns the file. Several chats may share it. Knows no conversation: only lines to offer
again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

from .aside import set_aside

# A file of more entries than MOST is cut to its last KEPT when a chat begins.
MOST, KEPT = 2000, 1000


def folder() -> Path:
    """Where this user's own data are kept."""
    data = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    return Path.home() / data / "dflash-mlx"


class FileHistory(History):
    """Lines of a file for prompt_toolkit, newest first.

    A file that cannot be read or written costs nothing but history, and is said once.

    Args:
        file: Where they are kept; only its owner may read it.
        notice: Told what happened to the file, if something did.
    """

    def __init__(self, file: Path, notice: Callable[[str], None]):
        super().__init__()
        self.file, self.notice, self.usable = file, notice, True
        self.entries: list[str] = []
        self._alone(self._open)

    def load_history_strings(self) -> Iterable[str]:
        """prompt_toolkit asks for them once."""
        return reversed(self.entries)

    def store_string(self, string: str) -> None:
        """prompt_toolkit tells every line that was entered."""
        self._alone(lambda: append(self.file, [string]))

    def _open(self) -> None:
        """The file's entries; a broken one is set aside, a long one cut."""
        if not self.file.exists():
            return
        entries, sound = read(self.file)
        if not sound:
            aside = set_aside(self.file)
            append(self.file, entries)
            self.notice(
                f"The history of what was typed is damaged: it is kept as {aside}, "
                f"and the {len(entries)} lines of it that can be read go on."
            )
        elif len(entries) > MOST:
            entries = entries[-KEPT:]
            draft = self.file.with_suffix(f".{os.getpid()}")
            draft.unlink(missing_ok=True)
            append(draft, entries)
            draft.replace(self.file)
        self.entries = entries

    def _alone(self, action: Callable[[], None]) -> None:
        """Do it while other chats wait; a failure ends what the file is used for."""
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
            self.notice(f"What is typed is not kept: {self.file}: {error.strerror}.")


def read(file: Path) -> tuple[list[str], bool]:
    """The texts of a file, oldest first, and whether all its lines are such."""
    entries, sound = [], True
    for line in file.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, str):
            entries.append(entry)
        else:
            sound = False
    return entries, sound


def append(file: Path, entries: list[str]) -> None:
    """Add texts to a file of this user's own."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with os.fdopen(os.open(file, flags, 0o600), "w", encoding="ascii") as out:
        os.fchmod(out.fileno(), 0o600)
        out.writelines(json.dumps(entry) + "\n" for entry in entries)
