"""Load the pair that a benchmark measures: a model, a shape, or an untrained drafter.

Does not know what is measured.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..loading import load, quantize_linear
from ..models.drafters import build_drafter
from ..pair import Pair
from ..tuning.calibrate import calibrate
from ..tuning.kernels import ignore, install_kernels
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
    notice: Callable[[str], None] = ignore,
    status: Callable[[str], None] = ignore,
) -> tuple[Pair, TokenizerWrapper]:
    """Load or build the pair to measure, and its tokenizer.

    Args:
        model, draft, quantize, draft_quantize, trust_remote_code, kernels, notice,
            status: As in loading.load. The drafter `untrained` is the model's drafter
            with random weights, as the worst case.
        shape: Take the embedded pair at the size of this model instead of `model`.
        seed: Seed of the random weights.

    Raises:
        DFlashError: As in loading.load, or there is no drafter to make untrained.
    """
    random_weights = draft == UNTRAINED
    # An untrained drafter gets its kernels below.
    mode = "off" if random_weights else kernels
    if shape is not None:
        from .shapes import load_shape

        pair, tokenizer = load_shape(
            shape,
            quantize=quantize,
            draft_quantize=draft_quantize,
            kernels=mode,
            notice=notice,
            status=status,
        )
    else:
        pair, tokenizer = load(
            model,
            None if random_weights else draft,
            quantize=quantize,
            draft_quantize=draft_quantize,
            trust_remote_code=trust_remote_code,
            kernels=mode,
            notice=notice,
            status=status,
        )
    if random_weights:
        pair = with_untrained_drafter(pair, seed)
        pair = install_kernels(pair, kernels, notice, status=status)
        calibrate(pair, notice, status=status)
    return pair, tokenizer


def with_untrained_drafter(pair: Pair, seed: int = 0) -> Pair:
    """The pair with a drafter of the same configuration and random weights.

    Raises:
        UnsupportedError: The pair has no drafter.
    """
    pair.require_drafter()
    trained = pair.drafter
    mx.random.seed(seed)
    drafter = build_drafter(trained.config, trained.window_limit)
    drafter.set_dtype(trained.dtype)
    drafter.eval()
    mx.eval(drafter.parameters())
    if trained.bits:
        quantize_linear(drafter, trained.bits)
    return Pair.of(pair.model, drafter, pair.target.config)
