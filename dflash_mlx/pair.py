"""A target with its drafter, and the checks that the two fit.

Does not read files; see loading.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.nn as nn

from .device import WIRED, evaluate
from .errors import PairError, UnsupportedError
from .metal.dispatch import Dispatch
from .models import fingerprint
from .models.drafters.base import Drafter
from .models.targets import make_target
from .models.targets.base import Target
from .speculation.history import History


def nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True)
class Pair:
    """A target and its drafter.

    Args:
        target: The model that decides every token.
        drafter: Proposes tokens; None for plain decoding.
        reason: Why there is no drafter, for the statistics.
        kernels: The installed kernels of the target and of the drafter.
        history: What rounds have shown so far, for the choice of widths.
        wire: Keep the weights in wired memory while text is generated, on a Mac.
        after_answer: Called when an answer has ended, to keep `history`.
    """

    target: Target
    drafter: Drafter | None = None
    reason: str = ""
    kernels: tuple[Dispatch, ...] = ()
    history: History = field(default_factory=History, repr=False, compare=False)
    wire: bool = True
    after_answer: Callable[[], None] = field(default=nothing, repr=False, compare=False)

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
        """Make a pair from in-memory objects.

        Args:
            model: An mlx-lm model.
            drafter: Any object that satisfies the Drafter protocol.
            config: The content of the model's config.json, if known (for its context
                length).
            reason: Why there is no drafter, if there is none.

        Raises:
            PairError: A tap is out of range.
            UnsupportedError: The model's caches cannot be rolled back.
        """
        target = make_target(model, config)
        evaluate(model, drafter)  # another thread than this one may decode
        if drafter is None:
            return cls(target, None, reason)
        check_taps(drafter.taps, target.num_layers)
        target.check(drafter.taps)
        drafter.bind(target.embed, target.head)
        return cls(target, drafter)

    def without_memory(self) -> Pair:
        """The pair with a new history, which is not kept: for measurements."""
        history = History(self.history.costs)
        return replace(self, history=history, after_answer=nothing)

    def wired(self) -> AbstractContextManager[None]:
        """A context in which the weights stay in wired memory, if `wire` is set."""
        return WIRED.use(self.model, self.drafter) if self.wire else nullcontext()

    @property
    def kernels_in_service(self) -> list[str]:
        """Names of the kernels that the target or the drafter uses, sorted."""
        return sorted({name for d in self.kernels for name in d.in_service})

    def drop_kernels(self, why: str) -> bool:
        """Stop using any kernel; return whether one was in service.

        Args:
            why: For the notice.
        """
        return any([dispatch.drop_all(why) for dispatch in self.kernels])

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of target and drafter, for the files of their caches."""
        return {
            "model": fingerprint.of_target(self.target),
            "drafter": fingerprint.of_drafter(self.drafter),
        }

    def require_drafter(self) -> None:
        """Raise UnsupportedError if there is no drafter."""
        if self.drafter is None:
            raise UnsupportedError(
                f"Drafting is required, but not possible: {self.reason}."
            )


def check_taps(taps: Sequence[int], layers: int) -> None:
    """Raise PairError unless every tap is a layer of the target."""
    if bad := [tap for tap in taps if not 0 <= tap < layers]:
        raise PairError(
            f"The drafter reads target layers {bad}, but the target has layers 0 to "
            f"{layers - 1}.",
            "Choose a drafter for this target: see `dflash-mlx models`.",
        )


def check_fit(drafter: dict[str, int], target: dict[str, int]) -> None:
    """Raise PairError with every number in which a drafter does not fit its target.

    Args:
        drafter: hidden_size, num_layers, vocab_size and mask_token_id.
        target: The first three, as far as they are known.
    """
    wrong = [
        f"{name} is {drafter[name]}, not {target[name]}"
        for name in ("hidden_size", "num_layers", "vocab_size")
        if drafter[name] != target.get(name, drafter[name])
    ]
    if not 0 <= drafter["mask_token_id"] < target.get("vocab_size", 2**62):
        wrong.append(
            f"mask_token_id {drafter['mask_token_id']} is outside the vocabulary of "
            f"{target['vocab_size']}"
        )
    if wrong:
        raise PairError(
            f"The drafter does not fit the target: {', '.join(wrong)}.",
            "Choose a drafter for this target: see `dflash-mlx models`.",
        )
