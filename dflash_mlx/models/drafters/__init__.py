"""Drafters: which class a folder's config asks for, and loading one."""

from __future__ import annotations

from pathlib import Path

from . import packagings
from .checkpoint import fill, pack, packed_bits, read_weights
from .config import DFlash2Config, DFlashConfig, DSparkConfig
from .dflash import DFlash
from .dflash2 import DFlash2
from .dspark import DSpark

CLASSES = {DFlashConfig: DFlash, DFlash2Config: DFlash2, DSparkConfig: DSpark}


def read_config(folder: Path) -> DFlashConfig:
    """The numbers of the drafter in a folder.

    Raises:
        DFlashError: config.json is missing, broken, or of a kind that is not known.
    """
    return packagings.read(folder).config


def load_folder(
    folder: Path, window: int | None = None, config: DFlashConfig | None = None
) -> DFlash:
    """Load a drafter from a folder.

    Args:
        folder: With config.json and *.safetensors.
        window: As in DFlash.
        config: Read it under these numbers, not those of its config.json.

    Raises:
        DFlashError: config or weights are missing, partial or of another kind.
    """
    found = packagings.read(folder)
    weights = found.tensors(read_weights(folder))
    config = packagings.with_tensors(config or found.config, weights.keys())
    drafter = make(config, window)
    if bits := packed_bits(folder):
        pack(drafter, bits, weights)
    fill(drafter, weights, folder)
    drafter.eval()
    return drafter


def make(config: DFlashConfig, window: int | None = None) -> DFlash:
    """An untrained drafter of a config."""
    return CLASSES[type(config)](config, window)
