"""Families that decode plainly only, each with the reason."""

from __future__ import annotations

from ...errors import UnsupportedError
from .base import Target


class Refused(Target):
    """A target that cannot be drafted for.

    Attributes:
        reason: Why, as the end of a sentence that starts with the model's module.
    """

    reason = ""

    def check(self, taps: tuple[int, ...] = ()) -> None:
        """Raise UnsupportedError."""
        raise UnsupportedError(
            f"{type(self.model).__module__} {self.reason}.", "Run it with --plain."
        )


class UnequalRows(Refused):
    """A family whose pass over a block gives other logits than passes over single rows.

    Found by benchmarks/examine.py with mlx-lm 0.32.2.
    """

    reason = "attends differently to several rows than to one"


class CompiledStep(Refused):
    """A family that compiles its pass over one row on a GPU. A replay of one row would
    compile the recorded arrays of its round into that pass."""

    reason = "compiles its recurrent layers, so they cannot be replayed"
