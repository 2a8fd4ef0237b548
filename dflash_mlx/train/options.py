"""Options of a training run, as Python arguments and as options of `train`.

Owns their help texts, defaults and ranges. Imports nothing heavy, so that --help stays
instant. Does not know how a drafter is built or trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..types import require

KINDS = ("dflash", "dflash2", "dspark")
MARKOV_HEADS = ("vanilla", "gated", "rnn")
# The paper's decay for these block sizes.
BLOCK_SIZES, GAMMAS = (8, 10, 16), (4.0, 5.0, 7.0)


@dataclass(frozen=True)
class TrainOptions:
    """A training run. The text beside a field is its help on the command line.

    The defaults are the paper's where it gives them (arXiv 2602.06036, section 4).

    Raises:
        OptionError: A value is out of range, or the kind of drafter does not have it.
    """

    kind: Annotated[str, "Kind of drafter to train: dflash, dflash2 or dspark."] = (
        "dflash"
    )
    warm_start: Annotated[
        str | None,
        "Drafter to start from: a folder, a Hub id, or the alias of its target. "
        "What the kind adds to it starts without effect. Default: random weights.",
    ] = None
    block_size: Annotated[
        int | None,
        "Rows of a block, the anchor included. Default: 16, or as in --warm-start.",
    ] = None
    layers: Annotated[
        int | None, "Number of draft layers. Default: 5, or as in --warm-start."
    ] = None
    taps: Annotated[
        tuple[int, ...] | None,
        "Target layers that the drafter reads, for example 1,9,17. Default: five "
        "layers (or --layers, if more) spread over the target, or as in --warm-start.",
    ] = None
    mask_token_id: Annotated[
        int | None,
        "Token id that stands for a masked slot. Default: the tokenizer's mask token, "
        "else the first id that the tokenizer does not use, or as in --warm-start.",
    ] = None
    context_window: Annotated[
        int | None,
        "Number of context tokens that the drafter sees. Default: the length that 90% "
        "of the training texts do not exceed.",
    ] = None
    rank: Annotated[
        int | None,
        "Rank of the dflash2 selector or the dspark Markov head. Default: 256, or as "
        "in --warm-start.",
    ] = None
    markov_head: Annotated[
        str | None,
        "Markov head of a dspark drafter: vanilla, gated or rnn. Default: vanilla, or "
        "as in --warm-start.",
    ] = None
    steps: Annotated[int, "Number of updates."] = 1000
    batch: Annotated[int, "Number of sequences per update."] = 8
    anchors: Annotated[int, "Number of blocks per sequence, drawn anew each time."] = 64
    max_length: Annotated[
        int, "Maximum length of a sequence in tokens; the rest is cut off."
    ] = 2048
    lr: Annotated[float, "Peak learning rate."] = 6e-4
    warmup: Annotated[
        float, "Share of the steps in which the learning rate rises to its peak."
    ] = 0.04
    clip: Annotated[float, "Maximum norm of the gradient."] = 1.0
    gamma: Annotated[
        float | None,
        "Decay of the loss weights: slot k weighs exp(-(k - 1) / gamma). Default: 4, 5 "
        "and 7 for blocks of 8, 10 and 16 rows, interpolated between them.",
    ] = None
    held_out: Annotated[
        int | None,
        "Number of conversations kept for evaluation and not trained on. Default: a "
        "tenth of them, 32 at most.",
    ] = None
    eval_every: Annotated[int, "Number of updates between evaluations."] = 100
    save_every: Annotated[int, "Number of updates between checkpoints."] = 100
    seed: Annotated[
        int, "Seed of the initial weights, the order of the data and the anchors."
    ] = 0

    def __post_init__(self):
        kind, head = self.kind, self.markov_head
        require(kind in KINDS, "kind", f"one of {', '.join(KINDS)}", kind)
        heads = ", ".join(MARKOV_HEADS)
        require(head in (None, *MARKOV_HEADS), "markov_head", f"one of {heads}", head)
        for name, fits in (
            ("rank", kind != "dflash"),
            ("markov_head", kind == "dspark"),
        ):
            value = getattr(self, name)
            require(value is None or fits, name, f"left out for {kind}", value)
        for name, least in (("block_size", 2), ("layers", 1), ("rank", 1)):
            self._require_at_least(name, least)
        for name in ("steps", "batch", "anchors", "eval_every", "save_every"):
            self._require_at_least(name, 1)
        for name, least in (("context_window", 1), ("max_length", 2), ("held_out", 1)):
            self._require_at_least(name, least)
        for name in ("lr", "clip", "gamma"):
            value = getattr(self, name)
            require(value is None or value > 0, name, "above 0", value)
        require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)

    def _require_at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        require(value is None or value >= least, name, f"{least} or more", value)

    def decay(self, block_size: int) -> float:
        """`gamma`, or by default the paper's value for a block size."""
        if self.gamma is not None:
            return self.gamma
        import numpy as np

        return float(np.interp(block_size, BLOCK_SIZES, GAMMAS))
