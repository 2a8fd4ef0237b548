"""Families that mlx-lm runs and the loop must not, each with its reason."""

from __future__ import annotations

from ...errors import UnsupportedError
from .base import Target


class Refused(Target):
    """Decodes plainly only."""

    reason = ""

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError."""
        name = type(self.model).__module__.rpartition(".")[2]
        raise UnsupportedError(
            f"mlx-lm's {name} {self.reason}.", "Run it with --plain."
        )


class UnequalRows(Refused):
    """Its pass over several rows is not what its passes over single rows give, so a
    block would verify other words. Found by bench/families.py, with mlx-lm 0.32.2."""

    reason = "attends differently to several rows than to one"


class CompiledStep(Refused):
    """On a GPU it compiles its pass over one row, and a replay of one row would
    compile the notes of its round into it."""

    reason = "compiles its recurrent layers, so they cannot be replayed"
