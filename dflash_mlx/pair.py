"""A target and the drafter that fits it, and the check that it does.

Knows numbers, not files: loading.py reads those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn

from .errors import PairError, UnsupportedError
from .metal.dispatch import Dispatch
from .models import fingerprint
from .models.drafters.base import Drafter
from .models.targets import make_target
from .models.targets.base import Target
from .speculation.controller import History


@dataclass(frozen=True)
class Pair:
    """What decoding runs on.

    Args:
        target: The model whose words are kept.
        drafter: Who guesses them, or None for plain decoding.
        reason: Why there is no drafter, for the statistics.
        kernels: Those of the target and of the drafter, where there are any.
        history: What its rounds have shown, which widths are chosen by.
    """

    target: Target
    drafter: Drafter | None = None
    reason: str = ""
    kernels: tuple[Dispatch, ...] = ()
    history: History = field(default_factory=History, repr=False, compare=False)

    @property
    def model(self) -> nn.Module:
        """The mlx-lm model."""
        return self.target.model

    @classmethod
    def of(
        cls,
        model: nn.Module,
        drafter: Drafter | None = None,
        config: dict[str, Any] | None = None,
        reason: str = "no drafter",
    ) -> Pair:
        """Make a pair of in-memory objects.

        Args:
            model: An mlx-lm model.
            drafter: Any object that satisfies the Drafter protocol.
            config: The model's config.json, if known (for its context length).
            reason: Why there is no drafter, if there is none.

        Raises:
            PairError: A tap is out of range.
            UnsupportedError: The model's caches cannot be rolled back.
        """
        target = make_target(model, config)
        if drafter is None:
            return cls(target, None, reason)
        check_taps(drafter.taps, target.num_layers)
        target.check(drafter.taps)
        drafter.bind(target.embed, target.head)
        return cls(target, drafter)

    @property
    def kernels_in_service(self) -> list[str]:
        """Names of the kernels that run something, of target or drafter."""
        return sorted({name for d in self.kernels for name in d.in_service})

    def drop_kernels(self, why: str) -> bool:
        """Take every kernel out of service; whether one was in service."""
        return any([dispatch.drop_all(why) for dispatch in self.kernels])

    def fingerprints(self) -> dict[str, str]:
        """What tells this target and drafter from others, for files of their caches."""
        return {
            "model": fingerprint.of_target(self.target),
            "drafter": fingerprint.of_drafter(self.drafter),
        }

    def require_drafter(self) -> None:
        """Raise UnsupportedError when nothing can be drafted."""
        if self.drafter is None:
            raise UnsupportedError(f"Drafting was required, but: {self.reason}.")


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Raise PairError unless every tap is a layer of the target."""
    if bad := [tap for tap in taps if not 0 <= tap < layers]:
        raise PairError(
            f"The drafter reads target layers {bad}, but the target has layers 0 to "
            f"{layers - 1}.",
            "Choose the drafter of this target: see `dflash-mlx models`.",
        )


def check_fit(drafter: dict[str, int], target: dict[str, int]) -> None:
    """Raise PairError with every number in which a drafter misses its target.

    Args:
        drafter, target: hidden_size, num_layers, vocab_size; the drafter also
            mask_token_id.
    """
    wrong = [
        f"{name} {drafter[name]} against {target[name]}"
        for name in ("hidden_size", "num_layers", "vocab_size")
        if drafter[name] != target[name]
    ]
    if not 0 <= drafter["mask_token_id"] < target["vocab_size"]:
        wrong.append(
            f"mask_token_id {drafter['mask_token_id']} outside a vocabulary of "
            f"{target['vocab_size']}"
        )
    if wrong:
        raise PairError(
            f"The drafter does not fit the target (drafter against target): "
            f"{', '.join(wrong)}.",
            "Choose the drafter of this target: see `dflash-mlx models`.",
        )
