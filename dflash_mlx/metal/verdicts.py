"""Which operation runs a shape on this machine: measured once, kept in a file.

Owns what a verdict is. Knows no kernel; the file is store.py's.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..store import Store, cache_folder

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
    return cache_folder() / "kernels.json"


class Verdicts:
    """The verdicts of one machine.

    Args:
        machine, file: As in Store.
    """

    def __init__(self, machine: str, file: Path):
        self.store = Store(machine, file)

    def all(self) -> dict[str, Verdict]:
        """This machine's verdicts by what they are about."""
        found = {}
        for about, entry in self.store.all().items():
            with contextlib.suppress(TypeError):
                verdict = Verdict(**entry)
                if isinstance(verdict.choice, str):
                    found[about] = verdict
        return found

    def put(self, about: str, verdict: Verdict) -> None:
        """Keep one verdict."""
        self.store.put(about, asdict(verdict))

    def forget(self, about: str) -> None:
        """Forget one verdict."""
        self.store.forget(about)

    def clear(self) -> int:
        """Forget this machine's verdicts; how many there were."""
        return self.store.clear()
