"""Drafters: read one from a folder, build one from a config, and write one.

Owns which class a config belongs to, and our own checkpoint format. Does not know how
other packagings are read; see packagings/.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from . import packagings
from .config import DFlash2Config, DFlashConfig, DSparkConfig
from .dflash import DFlash
from .dflash2 import DFlash2
from .dspark import DSpark
from .weights import load_weights, quantize_layers, quantized_bits, read_weights

CLASSES = {DFlashConfig: DFlash, DFlash2Config: DFlash2, DSparkConfig: DSpark}


def read_config(folder: Path) -> DFlashConfig:
    """Read the numbers of the drafter in a folder.

    Raises:
        DFlashError: config.json is missing or broken, or of no known packaging.
    """
    return packagings.read(folder).config


def load_folder(
    folder: Path, window: int | None = None, config: DFlashConfig | None = None
) -> DFlash:
    """Load a drafter from a folder.

    Args:
        folder: Has config.json and *.safetensors.
        window: Committed rows that the drafter sees; None is the config's default, 0 is
            all.
        config: Used in place of the numbers in config.json.

    Raises:
        DFlashError: config.json or weights are missing, incomplete or wrong.
    """
    drafter, weights = open_folder(folder, window, config)
    load_weights(drafter, weights, folder)
    drafter.eval()
    return drafter


def open_folder(
    folder: Path, window: int | None = None, config: DFlashConfig | None = None
) -> tuple[DFlash, dict[str, mx.array]]:
    """Build a folder's drafter without loading its weights.

    Args:
        folder, window, config: As in load_folder.

    Returns:
        The drafter with untrained parameters, and the folder's lazy tensors.
    """
    reading = packagings.read(folder)
    weights = reading.convert_weights(read_weights(folder))
    config = (config or reading.config).with_tensors(weights.keys())
    if window is None:
        window = config.default_window
    drafter = build_drafter(config, window or None)
    if bits := quantized_bits(folder):
        quantize_layers(drafter, bits, weights)
    return drafter, weights


def build_drafter(config: DFlashConfig, window: int | None = None) -> DFlash:
    """Build an untrained drafter."""
    return CLASSES[type(config)](config, window)


def save_folder(
    drafter: DFlash,
    folder: Path,
    dtype: mx.Dtype | None = mx.bfloat16,
    origin: str = "",
) -> None:
    """Write a drafter's config.json and model.safetensors, in our own format.

    Args:
        drafter: Its quantized layers are written as they are.
        folder: Created if it does not exist.
        dtype: The dtype of tensors that are not quantized; None keeps each tensor's.
        origin: The checkpoint that it was converted from, for readers of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(tree_flatten(drafter.parameters()))
    if dtype:
        floats = (k for k, v in weights.items() if mx.issubdtype(v.dtype, mx.floating))
        weights |= {name: weights[name].astype(dtype) for name in floats}
    # Outside the folder, where a leftover is not read as part of the weights.
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
