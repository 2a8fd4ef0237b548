"""Verdicts: which kernel runs a shape on this machine, measured once and stored.

Owns what a verdict is, and what it depends on besides the shape. Knows no kernel; the
file belongs to store.py.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx

from ..device import gpu_info
from ..store import Store, cache_folder, ignore
from .kernel import fingerprint

STOCK = "stock"


@dataclass(frozen=True)
class Verdict:
    """The choice for calls of one shape.

    Args:
        choice: Name of the kernel that runs them, or "stock".
        why: The reason, in a few words.
        microseconds: Time of one call by candidate; empty if there was no race.
        lost: How often the measurement was lost, because the program ended or the GPU
            failed. After the first time, the cause may lie elsewhere.
    """

    choice: str
    why: str
    microseconds: dict[str, float] = field(default_factory=dict)
    lost: int = 0

    @property
    def final(self) -> bool:
        """Whether the shape need not be measured again."""
        return self.lost != 1


def default_file() -> Path:
    """The file of this user's verdicts."""
    return cache_folder() / "kernels.json"


def machine() -> str:
    """What verdicts depend on besides a shape: chip, MLX, the text of the kernels, and
    macOS, which brings the compiler."""
    info, system = gpu_info(), platform.mac_ver()[0] or "none"
    chip = f"{info['device_name']}, {info['architecture']}"
    return f"{chip}, macOS {system}, mlx {mx.__version__}, kernels {fingerprint()}"


class Verdicts:
    """The stored verdicts of one machine.

    Args:
        machine, file, notice: As in Store.
    """

    def __init__(
        self, machine: str, file: Path, notice: Callable[[str], None] = ignore
    ):
        self.store = Store(machine, file, notice)

    @classmethod
    def of_this_machine(cls, notice: Callable[[str], None] = ignore) -> Verdicts:
        """This machine's verdicts, in this user's file."""
        return cls(machine(), default_file(), notice)

    def all(self) -> dict[str, Verdict]:
        """This machine's verdicts by key: operation, shape and rows as text."""
        found = {}
        for key, entry in self.store.all().items():
            with contextlib.suppress(TypeError):
                verdict = Verdict(**entry)
                if isinstance(verdict.choice, str):
                    found[key] = verdict
        return found

    def put(self, key: str, verdict: Verdict) -> None:
        """Store one verdict."""
        self.store.put(key, asdict(verdict))

    def forget(self, key: str) -> None:
        """Delete one verdict."""
        self.store.forget(key)

    def clear(self) -> int:
        """Delete this machine's verdicts, and return their number."""
        return self.store.clear()
