"""What an answer needs next, so that several answers can be given it in one pass.

An answer is a generator that yields requests between its rounds (loop.py). Whoever
drives it may fulfil a request together with those of other answers; if not, the answer
fulfils it itself when it goes on. Does not know who drives it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import mlx.core as mx

from ..speculation.controller import Plan
from .pending import PendingPass

if TYPE_CHECKING:
    from .passes import Passes

Result = TypeVar("Result")
Item = TypeVar("Item")
Options = ParamSpec("Options")


@dataclass
class VerifyRequest:
    """The target's pass over a block.

    Args:
        passes: Run the models.
        block: [n] the anchor, then the drafts.
        masks: As in Passes.verify.
        sent: The pass, once it is sent.
    """

    passes: Passes
    block: mx.array
    masks: mx.array | None = None
    sent: PendingPass | None = None

    def result(self) -> PendingPass:
        """The pass, which is sent now if it was not."""
        if self.sent is None:
            self.sent = self.passes.verify(self.block, self.masks)
        return self.sent


@dataclass
class DraftRequest:
    """Drafts behind the text's last token.

    Args:
        passes: Run the models.
        plan: As in Passes.draft.
        with_confidence: As in Passes.draft.
        drafted: The block and the confidence, once they are computed.
    """

    passes: Passes
    plan: Plan
    with_confidence: bool = False
    drafted: tuple[mx.array, mx.array | None] | None = None

    def result(self) -> tuple[mx.array, mx.array | None]:
        """The block and the confidence, drafted now if they were not."""
        if self.drafted is None:
            self.drafted = self.passes.draft(self.plan, self.with_confidence)
        return self.drafted


@dataclass(frozen=True)
class ChunkPassed:
    """A chunk of the prompt was passed: a place to let other answers go on.

    Args:
        rows_left: Rows of the prompt that are not passed yet.
    """

    rows_left: int


Request = VerifyRequest | DraftRequest


def run_alone(steps: Generator[Any, None, Result]) -> Result:
    """Run a generator of requests to its end; return its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def only(
    kind: type[Item], steps: Callable[Options, Iterator[Any]], name: str
) -> Callable[Options, Iterator[Item]]:
    """The function `steps`, whose generator yields nothing but items of one kind.

    An answer that is driven alone needs no one who fulfils its requests.

    Args:
        kind: What is yielded.
        steps: Makes a generator.
        name: Of the new function, which has the same parameters.
    """

    @functools.wraps(steps)
    def run(*args: Options.args, **options: Options.kwargs) -> Iterator[Item]:
        with closing(steps(*args, **options)) as found:
            for item in found:
                if isinstance(item, kind):
                    yield item

    run.__name__ = run.__qualname__ = name
    return run
