"""Families that mlx-lm runs and the loop must not, each with its reason."""

from __future__ import annotations

from ...errors import UnsupportedError
from .base import Target


class Plamo3(Target):
    """Its pass over several rows lets each see one row more behind the sliding window
    than a pass of one row does, so a block would verify other words."""

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError."""
        raise UnsupportedError(
            "mlx-lm's plamo3 attends differently to several rows than to one.",
            "Run it with --plain.",
        )
