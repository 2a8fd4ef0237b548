"""Families that mlx-lm runs and the loop must not: its pass over several rows is not
what its passes over single rows give, so a block would verify other words.

Found by the examination in bench/families.py, with mlx-lm 0.32.2.
"""

from __future__ import annotations

from ...errors import UnsupportedError
from .base import Target


class Refused(Target):
    """Decodes plainly only."""

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError."""
        name = type(self.model).__module__.rpartition(".")[2]
        raise UnsupportedError(
            f"mlx-lm's {name} attends differently to several rows than to one.",
            "Run it with --plain.",
        )
