"""Drafters: which class a folder's config asks for, and loading one."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Config, fill, read_weights
from .dflash import DFlash, DFlashConfig
from .dflash2 import DFlash2, DFlash2Config
from .dspark import DSpark, DSparkConfig


def read_config(folder: Path) -> DFlashConfig:
    """The numbers of the drafter in a folder.

    Raises:
        DFlashError: config.json is missing, broken, or of a kind that is not known.
    """
    config = Config(folder)
    named = set(config.root.get("architectures") or [])
    # Some copies keep the first architecture's name beside the second's fields.
    if named & set(DFlash2Config.ARCHITECTURES) or config.get("selector_rank", int, 0):
        return DFlash2Config.read(folder)
    if named & set(DSparkConfig.ARCHITECTURES):
        return DSparkConfig.read(folder)
    return DFlashConfig.read(folder)


def load_folder(folder: Path, window: int | None = None) -> DFlash:
    """Load a drafter from a folder.

    Args:
        folder: With config.json and *.safetensors.
        window: As in DFlash.

    Raises:
        DFlashError: config or weights are missing, partial or of another kind.
    """
    config = read_config(folder)
    weights = read_weights(folder)
    if isinstance(config, DSparkConfig):
        drafter: DFlash = DSpark(config, window, weights.keys())
    elif isinstance(config, DFlash2Config):
        drafter = DFlash2(config, window)
    else:
        drafter = DFlash(config, window)
    fill(drafter, weights, folder)
    drafter.eval()
    return drafter
