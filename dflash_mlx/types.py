"""Frozen records that several layers use, and the checks of their values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import OptionError

if TYPE_CHECKING:
    import mlx.core as mx


# Most rows of a block. Drafters are trained for 4 to 16, so a larger number is a typo.
MAX_BLOCK_SIZE = 256


def require(ok: bool, option: str, wanted: str, got: object) -> None:
    """Raise OptionError unless `ok`.

    Args:
        ok: Whether the value is in range.
        option: Name of the option.
        wanted: Its range, to follow "must be".
        got: The value.
    """
    if not ok:
        raise OptionError(f"{option} must be {wanted}, but is {got!r}.")


def check_block_size(size: int | None, option: str = "block_size") -> None:
    """Raise OptionError unless a block can have `size` rows; None is always allowed."""
    fits = size is None or 1 <= size <= MAX_BLOCK_SIZE
    require(fits, option, f"1 to {MAX_BLOCK_SIZE}", size)


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits. Names and meanings are mlx-lm's.

    `temp` 0 is greedy and ignores the filters. Penalties and the bias come first, then
    the filters in mlx-lm's order (top_p, min_p, xtc, top_k). If `seed` is None, one is
    drawn from MLX's generator, so `mx.random.seed` makes a run repeatable.

    Raises:
        OptionError: A value is out of its range.
    """

    temp: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    min_tokens_to_keep: int = 1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_special_tokens: tuple[int, ...] = ()
    repetition_penalty: float | None = None
    repetition_context_size: int = 20
    presence_penalty: float | None = None
    presence_context_size: int = 20
    frequency_penalty: float | None = None
    frequency_context_size: int = 20
    logit_bias: dict[int, float] = field(default_factory=dict)

    def __post_init__(self):
        require(self.temp >= 0, "temp", "0 or more", self.temp)
        require(0 <= self.top_p <= 1, "top_p", "in [0, 1]", self.top_p)
        require(self.top_k >= 0, "top_k", "0 or more", self.top_k)
        require(0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        require(
            self.seed is None or 0 <= self.seed < 2**32,
            "seed",
            "in [0, 2^32)",
            self.seed,
        )
        keep = self.min_tokens_to_keep
        require(keep >= 1, "min_tokens_to_keep", "1 or more", keep)
        chance, threshold = self.xtc_probability, self.xtc_threshold
        require(0 <= chance <= 1, "xtc_probability", "in [0, 1]", chance)
        require(0 <= threshold <= 0.5, "xtc_threshold", "in [0, 0.5]", threshold)
        penalty = self.repetition_penalty
        require(
            penalty is None or penalty > 0, "repetition_penalty", "above 0", penalty
        )
        for token, bias in self.logit_bias.items():
            require(token >= 0, "a token id of logit_bias", "0 or more", token)
            require(math.isfinite(bias), "a bias of logit_bias", "finite", bias)
        for name in ("repetition", "presence", "frequency"):
            size = getattr(self, f"{name}_context_size")
            require(size >= 1, f"{name}_context_size", "1 or more", size)


@dataclass(frozen=True)
class Round:
    """What one round of decoding committed.

    Args:
        tokens: The new tokens, in order. Each is the target's own choice.
        drafted: The number of drafts.
        accepted: The number of drafts among `tokens`, always the first ones.
        width: Rows that the target verified; 0 for the token that the prefill gives.
        source: Where the drafts come from: "drafter", "lookup" or "grammar" (which
            allowed one text only), or "plain" for none.
        logits: [len(tokens), V] the processed logits that each token was chosen from.
        ended: Whether the text ends with these tokens.
    """

    tokens: list[int]
    drafted: int
    accepted: int
    width: int
    source: str = "plain"
    logits: mx.array = field(repr=False, compare=False, default=None)
    ended: bool = False

    @property
    def judged(self) -> int:
        """The number of drafts up to the end of the text: those that could be kept."""
        return self.accepted if len(self.tokens) == self.accepted else self.drafted


@dataclass(frozen=True)
class KVBits:
    """Quantization of the target's KV cache, with mlx-lm's meanings.

    Args:
        bits: Bits per value; None for no quantization.
        group_size: Values that share a scale.
        start: The number of rows at which the cache is quantized.
    """

    bits: int | None = None
    group_size: int = 64
    start: int = 5000

    def __post_init__(self):
        # Other sizes are not packed correctly by mlx-lm's QuantizedKVCache.
        require(self.bits in (None, 2, 3, 4, 8), "kv_bits", "2, 3, 4 or 8", self.bits)
        sizes = (32, 64, 128)
        require(self.group_size in sizes, "kv_group_size", str(sizes), self.group_size)
        require(self.start >= 0, "quantized_kv_start", "0 or more", self.start)
