"""The pair that a benchmark measures: a real one, a shape, an untrained drafter."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..loading import load, quantize_linear
from ..models.drafters import make
from ..pair import Pair
from ..tuning.calibrate import calibrate
from ..tuning.kernels import install_kernels, quiet
from .settings import UNTRAINED


def open_pair(
    model: str = "tiny",
    draft: str | None = None,
    *,
    shape: str | None = None,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    trust_remote_code: bool = False,
    kernels: str = "auto",
    seed: int = 0,
    notice: Callable[[str], None] = quiet,
) -> tuple[Pair, TokenizerWrapper]:
    """Load or build what is measured.

    Args:
        model, draft, quantize, draft_quantize, trust_remote_code, kernels, notice: As
            in loading.load; the drafter `untrained` is the usual one with random
            weights, the worst that there can be.
        shape: The embedded pair at the size of this model, in place of `model`.
        seed: Of random weights.

    Raises:
        DFlashError: As in loading.load; an untrained drafter needs a known one.
    """
    wild = draft == UNTRAINED
    mode = "off" if wild else kernels
    if shape is not None:
        from .shapes import shaped

        pair, tokenizer = shaped(
            shape,
            quantize=quantize,
            draft_quantize=draft_quantize,
            kernels=mode,
            notice=notice,
        )
    else:
        pair, tokenizer = load(
            model,
            None if wild else draft,
            quantize=quantize,
            draft_quantize=draft_quantize,
            trust_remote_code=trust_remote_code,
            kernels=mode,
            notice=notice,
        )
    if wild:
        pair = install_kernels(untrained(pair, seed), kernels, notice)
        calibrate(pair, notice)
    return pair, tokenizer


def untrained(pair: Pair, seed: int = 0) -> Pair:
    """The pair with a drafter of the same numbers that has learnt nothing.

    Raises:
        UnsupportedError: It has no drafter.
    """
    pair.require_drafter()
    known = pair.drafter
    mx.random.seed(seed)
    drafter = make(known.config, known.own_window)
    drafter.set_dtype(known.dtype)
    drafter.eval()
    mx.eval(drafter.parameters())
    if known.bits:
        quantize_linear(drafter, known.bits)
    return Pair.of(pair.model, drafter, pair.target.config)
