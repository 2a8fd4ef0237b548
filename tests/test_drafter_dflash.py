"""The DFlash v1 drafter: against the published one, its checkpoint, its context."""

import json
from pathlib import Path

import mlx.core as mx
import pytest
from golden.make_dflash_v1 import CASES, ROUNDS, SHAPE
from mlx.utils import tree_flatten

from dflash_mlx import load_drafter
from dflash_mlx.errors import ConfigError, MissingFilesError, WeightsError
from dflash_mlx.models.drafters.dflash import DFlash, DFlashConfig
from dflash_mlx.train.drafter import save_drafter

GOLDEN = Path(__file__).parent / "golden" / "dflash_v1.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_drafter(case):
    arrays = mx.load(str(GOLDEN))
    drafter = DFlash(DFlashConfig(**SHAPE | CASES[case]))
    prefix = f"{case}.weights."
    weights = [
        (k[len(prefix) :], v) for k, v in arrays.items() if k.startswith(prefix)
    ]
    drafter.load_weights(weights)
    embed, head = arrays[f"{case}.embed"], arrays[f"{case}.head"]
    drafter.bind(lambda ids: embed[ids], lambda h: h @ head.T)
    cache = drafter.make_cache()
    for i in range(len(ROUNDS)):
        drafter.extend(arrays[f"{case}.{i}.features"], cache)
        seen = []

        def choose(logits, slots, seen=seen):
            seen.append(logits)
            return mx.argmax(logits, axis=-1)

        drafter.propose(arrays[f"{case}.{i}.anchor"], cache, 6, choose)
        wanted = arrays[f"{case}.{i}.logits"]
        error = mx.abs(seen[0] - wanted).max() / mx.abs(wanted).max()
        assert error.item() < 1e-4
