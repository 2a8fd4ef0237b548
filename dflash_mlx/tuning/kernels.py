"""Installs Metal kernels in a pair: measured on its shapes, or checked to be exact.

Owns the order of these steps. Does not know how a kernel works or how a kernel is
chosen for a call; see metal/.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from .. import device
from ..errors import UnsupportedError
from ..metal.dispatch import Dispatch, Report
from ..metal.kernel import KERNEL_ERRORS, error_summary
from ..metal.layers import install
from ..metal.operation import Request, whole_result
from ..metal.selection import find_fault
from ..metal.verdicts import Verdicts
from ..models.targets.base import Target
from ..pair import Pair
from ..store import ignore
from .meter import Meter

Notice = Callable[[str], None]

# Widths of the blocks that are compared with single rows, and the rows before them.
WIDTHS = (2, 3, 5, 8, 16)
PREFIX = 24

WITHOUT_EXACT = "Leave --exact out: every token is still the target's own choice."


def install_kernels(
    pair: Pair,
    mode: str = "auto",
    notice: Notice = ignore,
    verdicts: Verdicts | None = None,
    again: bool = False,
    status: Notice = ignore,
) -> Pair:
    """Make a pair's layers use kernels, if there is a Metal GPU.

    Args:
        pair: The classes of its modules change in place, unless no kernel can run.
        mode: "auto": what is faster on this machine. "off": MLX's operations only.
            "exact": rows do not depend on their block, by kernels on Metal and by MLX
            elsewhere.
        notice: Called with one line of text that a user should read.
        verdicts: Where verdicts are stored; this user's file by default.
        again: Measure even where there is a stored verdict.
        status: Called with one line of text before each trial.

    Raises:
        UnsupportedError: In mode "exact", a kernel is wrong on this machine, or rows of
            this model depend on their block.
    """
    if mode == "off":
        return pair
    if device.runs_on_metal():
        with pair.wired():  # as in decoding, which the race is for
            pair = _with_kernels(pair, mode == "exact", notice, verdicts, again, status)
    if mode == "exact":
        pair.target.exact = True
        check_exact(pair.target)
    return pair


def _with_kernels(pair, exact, notice, verdicts, again, status):
    target = Dispatch(exact, verdicts, notice)
    install(pair.model, target)
    pair.target.forget_views()
    dispatches = (target,)
    if isinstance(pair.drafter, nn.Module):
        drafter = target.for_drafter()
        install(pair.drafter, drafter)
        dispatches += (drafter,)
    pair = replace(pair, kernels=dispatches)
    for dispatch, requests in zip(dispatches, record_requests(pair), strict=True):
        if dispatch.exact:
            check_kernels(requests, Meter("Checking kernels", status))
        else:
            dispatch.choose_kernels(requests, again, Meter("Measuring kernels", status))
    if exact and target.inexact_reason:
        raise UnsupportedError(
            f"Rows of this model may depend on their block: {target.inexact_reason}.",
            WITHOUT_EXACT,
        )
    return pair


def check_kernels(
    requests: list[Request], report: Report = lambda done, total, what: None
) -> None:
    """Raise UnsupportedError if an exact kernel is wrong on this machine.

    A shape that the kernel does not support is run by MLX; `check_exact` tests the
    outcome.

    Args:
        requests: From `record_requests`.
        report: Called before each shape.
    """
    for done, request in enumerate(requests):
        operation = request.operation
        report(done, len(requests), operation.name)
        cases = request.exact_samples()
        trials = [(operation.exact, case, operation.tail) for case in cases]
        trials += [
            (kernel, case, whole_result)
            for kernel in operation.companions
            for case in kernel.cases()
        ]
        for kernel, case, tail in trials:
            supported = not kernel.refusal(**case)
            if supported and (fault := _fault(kernel, case, tail)):
                raise UnsupportedError(
                    f"The {kernel.name} kernel is wrong here: it {fault}.",
                    "Report it with the output of `dflash-mlx kernels --check`.",
                )


def _fault(kernel, case, tail):
    """As find_fault. A failure of the GPU is a fault too: nothing else is measured."""
    try:
        return find_fault(kernel, case, tail)
    except KERNEL_ERRORS as error:
        return f"does not run: {error_summary(error)}"


def record_requests(pair: Pair) -> list[list[Request]]:
    """The shapes that a round of the pair calls, one list per dispatch.

    The graph of a round is built and dropped; nothing is computed.
    """
    with ExitStack() as stack:
        requests = [stack.enter_context(d.recording()) for d in pair.kernels]
        _build_round(pair)
    return requests


def _build_round(pair):
    taps = pair.drafter.taps if pair.drafter else ()
    cache = pair.target.make_cache()
    block = mx.zeros((1, 2), mx.uint32)
    # A target without a drafter may be of a kind that `verify` does not support.
    run = pair.target.verify if pair.drafter else pair.target.forward
    features = run(block, cache, taps)[1]
    if isinstance(pair.drafter, nn.Module):  # a scripted drafter has no layers
        context = pair.drafter.make_cache()
        pair.drafter.extend(features, context)
        width = pair.drafter.block_size
        pair.drafter.propose(block[0, :1], context, width, _choose_first)


def _choose_first(logits, slots, ids=None):
    return mx.zeros((1, len(slots)), mx.uint32) if ids is None else ids[..., 0]


def check_exact(target: Target) -> None:
    """Raise UnsupportedError unless a block's rows have the same bits as single rows.

    Passes random tokens one by one, then in blocks of several widths.
    """
    rows = max(WIDTHS)
    key = mx.random.key(0)
    ids = mx.random.randint(0, target.vocab_size, (1, PREFIX + rows), key=key)
    prefix, ids = ids[:, :PREFIX], ids[:, PREFIX:]
    cache = _cache_after(target, prefix)
    alone = [target.forward(ids[:, i : i + 1], cache)[0] for i in range(rows)]
    for width in WIDTHS:
        block = target.verify(ids[:, :width], _cache_after(target, prefix))[0]
        expected = mx.concatenate(alone[:width], axis=1)
        if not mx.array_equal(block, expected):  # NaN is an error too
            raise UnsupportedError(
                f"Rows of this model depend on their block here: the logits of {width} "
                "rows together differ from those of single rows.",
                WITHOUT_EXACT,
            )


def _cache_after(target, prefix):
    cache = target.make_cache()
    mx.eval(target.forward(prefix, cache)[0])
    return cache
