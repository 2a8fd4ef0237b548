"""Options, examples and drafters for the tests of training."""

from __future__ import annotations

import mlx.core as mx

from dflash_mlx import Pair
from dflash_mlx.models.drafters.dflash import DFlash
from dflash_mlx.train.answers import Example
from dflash_mlx.train.options import TrainOptions
from dflash_mlx.train.trainer import initial_drafter
from tests.equipment.tiny import greedy, some_prompt

OPTIONS = TrainOptions(
    block_size=6,
    layers=1,
    taps=(0, 2),
    mask_token_id=96,
    steps=6,
    batch=4,
    anchors=8,
    held_out=2,
    eval_every=3,
    save_every=2,
    lr=2e-3,
)
# Kinds of drafters, and the options that their heads add.
KIND_OPTIONS = {
    "dflash": {},
    "dflash2": {"rank": 8},
    "dspark": {"rank": 8, "markov_head": "rnn"},
}


class StubTokenizer:
    """As much of a tokenizer as training reads."""

    mask_token_id = 96


def make_examples(n: int, seed: int = 0) -> list[Example]:
    """Random texts of which all but the first six tokens are an answer."""
    rows = [some_prompt(20 + i % 7, seed + i) for i in range(n)]
    return [Example(row, [(6, len(row))]) for row in rows]


def warm_options(kind: str, source: str, **changes) -> TrainOptions:
    """Options that train a drafter of `kind` from the drafter in folder `source`."""
    return TrainOptions(
        kind=kind,
        warm_start=source,
        **KIND_OPTIONS[kind]
        | {"steps": 40, "batch": 4, "anchors": 8, "held_out": 2}
        | changes,
    )


def warm_drafter(target: Pair, kind: str, source: str, **changes) -> DFlash:
    """The drafter that training with `warm_options` begins with."""
    options = warm_options(kind, source, **changes)
    return initial_drafter(target, StubTokenizer(), options)


def filled_cache(drafter: DFlash):
    """A drafter's cache with 20 rows of random features."""
    cache = drafter.make_cache()
    drafter.extend(mx.random.normal((1, 20, 128), key=mx.random.key(3)), cache)
    return cache


def draft_block(target: Pair, drafter: DFlash) -> list[list[int]]:
    """The drafts after the context of `filled_cache` and the anchor 5."""
    Pair.of(target.model, drafter)
    return drafter.propose(mx.array([5]), filled_cache(drafter), 6, greedy).tolist()
