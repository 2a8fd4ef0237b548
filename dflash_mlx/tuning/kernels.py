"""Kernels for a pair: put into its layers, measured on its shapes, or proved exact.

Owns the order of things at load. What a kernel is, and which one runs a call, is
metal's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn

from .. import device
from ..errors import UnsupportedError
from ..metal.dispatch import Dispatch
from ..metal.gate import Request, fault, whole
from ..metal.layers import install
from ..metal.verdicts import Verdicts
from ..models.targets.base import Target
from ..pair import Pair

Notice = Callable[[str], None]

# The passes that are compared bit for bit, and the rows before them.
WIDTHS = (2, 3, 5, 8, 16)
PREFIX = 24


INEXACT = "Leave --exact out: every token is the target's own choice even so."


def quiet(line: str) -> None:
    """A notice that nobody wants."""


def install_kernels(
    pair: Pair,
    mode: str = "auto",
    notice: Notice = quiet,
    verdicts: Verdicts | None = None,
    again: bool = False,
) -> Pair:
    """Give a pair's layers kernels, where there is a Metal GPU.

    Args:
        pair: Its modules' classes change in place, unless nothing can run.
        mode: "auto": what is faster here. "off": MLX's operations only. "exact": rows
            do not depend on their block, by kernels on Metal and by MLX elsewhere.
        notice: Told, in one line, what a user should know.
        verdicts: Where measured ones are kept; this user's file by default.
        again: Measure although there are verdicts.

    Raises:
        UnsupportedError: Rows of this model depend on their block even so.
    """
    if mode == "off":
        return pair
    if device.runs_on_metal():
        pair = _with_kernels(pair, mode == "exact", notice, verdicts, again)
    if mode == "exact":
        pair.target.exact = True
        check_exact(pair.target)
    return pair


def _with_kernels(pair, exact, notice, verdicts, again):
    target = Dispatch(exact, verdicts, notice)
    install(pair.model, target)
    pair.target.forget_views()
    dispatches = (target,)
    if isinstance(pair.drafter, nn.Module):
        drafter = target.sibling()
        install(pair.drafter, drafter)
        dispatches += (drafter,)
    pair = replace(pair, kernels=dispatches)
    for dispatch, requests in zip(dispatches, asked(pair), strict=True):
        if dispatch.exact:
            check_right(requests)
        else:
            dispatch.settle(requests, again)
    if exact and target.unexact:
        raise UnsupportedError(
            f"Rows of this model may depend on their block: {target.unexact}.", INEXACT
        )
    return pair


def check_right(requests: list[Request]) -> None:
    """Raise UnsupportedError where an exact kernel is wrong on this machine.

    A shape that it refuses stays with MLX; `check_exact` judges the outcome.
    """
    for request in requests:
        operation = request.operation
        cases = [case for n in (1, 16) for case in request.samples(n)]
        trials = [(operation.exact, case, operation.tail) for case in cases]
        trials += [(k, case, whole) for k in operation.needs for case in k.cases()]
        for kernel, case, tail in trials:
            why = "" if kernel.refuses(**case) else fault(kernel, case, tail)
            if why:
                raise UnsupportedError(
                    f"The {kernel.name} kernel is wrong here: it {why}.",
                    "Send the output of `dflash-mlx kernels --check`.",
                )


def asked(pair: Pair) -> list[list[Request]]:
    """What a round of the pair asks of its kernels, by dispatch.

    Nothing is computed: the graph of a round is built and dropped.
    """
    with ExitStack() as ears:
        found = [ears.enter_context(d.listening()) for d in pair.kernels]
        _dry_round(pair)
    return found


def _dry_round(pair):
    taps = pair.drafter.taps if pair.drafter else ()
    cache = pair.target.make_cache()
    block = mx.zeros((1, 2), mx.uint32)
    # A target that nobody drafts for may be of a kind that cannot be verified.
    run = pair.target.verify if pair.drafter else pair.target.forward
    features = run(block, cache, taps)[1]
    if isinstance(pair.drafter, nn.Module):  # a scripted one has no layers
        context = pair.drafter.make_cache()
        pair.drafter.extend(features, context)
        pair.drafter.propose(block[0, :1], context, pair.drafter.block_size, _first)


def _first(logits, slots, ids=None):
    return mx.zeros((1, len(slots)), mx.uint32) if ids is None else ids[..., 0]


def check_exact(target: Target) -> None:
    """Raise UnsupportedError unless a block's rows have the bits of single rows.

    Random tokens are passed one by one, and in blocks of several widths.
    """
    rows = max(WIDTHS)
    key = mx.random.key(0)
    ids = mx.random.randint(0, target.vocab_size, (1, PREFIX + rows), key=key)
    prefix, ids = ids[:, :PREFIX], ids[:, PREFIX:]
    single = _cache_of(target, prefix)
    alone = [target.forward(ids[:, i : i + 1], single)[0] for i in range(rows)]
    for width in WIDTHS:
        cache = _cache_of(target, prefix)
        block = target.verify(ids[:, :width], cache)[0]
        wanted = mx.concatenate(alone[:width], axis=1)
        if not mx.array_equal(block, wanted):  # nor may they be no numbers
            raise UnsupportedError(
                f"Rows of this model depend on their block here: logits of {width} "
                "rows together are not those of the rows alone.",
                INEXACT,
            )


def _cache_of(target, prefix):
    cache = target.make_cache()
    mx.eval(target.forward(prefix, cache)[0])
    return cache
