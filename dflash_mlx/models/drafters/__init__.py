"""Drafters: which class a folder's config asks for, and loading one."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import packagings
from .checkpoint import (
    fill,
    pack,
    packed_bits,
    read_weights,
)
from .config import DFlash2Config, DFlashConfig, DSparkConfig
from .dflash import DFlash
from .dflash2 import DFlash2
from .dspark import DSpark
from .packaging import with_tensors

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
        window: Committed rows that it sees; None is its config's, 0 is all.
        config: Read it under these numbers, not those of its config.json.

    Raises:
        DFlashError: config or weights are missing, partial or of another kind.
    """
    drafter, weights = empty(folder, window, config)
    fill(drafter, weights, folder)
    drafter.eval()
    return drafter


def empty(
    folder: Path, window: int | None = None, config: DFlashConfig | None = None
) -> tuple[DFlash, dict[str, mx.array]]:
    """A folder's drafter before its tensors are in place, and those, still unread.

    Args:
        folder, window, config: As in load_folder.
    """
    found = packagings.read(folder)
    weights = found.tensors(read_weights(folder))
    config = with_tensors(config or found.config, weights.keys())
    if window is None:
        window = config.default_window
    drafter = make(config, window or None)
    if bits := packed_bits(folder):
        pack(drafter, bits, weights)
    return drafter, weights


def make(config: DFlashConfig, window: int | None = None) -> DFlash:
    """An untrained drafter of a config."""
    return CLASSES[type(config)](config, window)


def save_folder(
    drafter: DFlash,
    folder: Path,
    dtype: mx.Dtype | None = mx.bfloat16,
    origin: str = "",
) -> None:
    """Write a drafter's config.json and model.safetensors, in our own format.

    Args:
        drafter: Quantized layers stay so.
        folder: Made if it is missing.
        dtype: Of tensors that are not packed; None keeps each as it is.
        origin: What it was made from, for readers of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(drafter.parameters()))
    if dtype:
        floats = (k for k, v in weights.items() if mx.issubdtype(v.dtype, mx.floating))
        weights |= {name: weights[name].astype(dtype) for name in floats}
    # Beside the folder: a leftover in it would be read as a part of the weights.
    temporary = folder.parent / f".{folder.name}.safetensors"
    mx.save_safetensors(str(temporary), weights, {"format": "mlx"})
    temporary.replace(folder / "model.safetensors")
    written = drafter.config.to_json()
    packed = [m for m in drafter.modules() if isinstance(m, nn.QuantizedLinear)]
    if packed:
        sizes = {"bits": packed[0].bits, "group_size": packed[0].group_size}
        written["quantization"] = sizes
    if origin:
        written["converted_from"] = origin
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
