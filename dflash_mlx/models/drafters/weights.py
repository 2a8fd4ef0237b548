"""A drafter's tensors: read from a folder, checked, and put into a model.

Every failure names the file and the tensor. Does not know the classes of drafters or
the names that packagings give to tensors.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import MissingFilesError, WeightsError
from ...hub.folder import missing_files, weight_files
from .config_file import ConfigFile


def read_weights(folder: Path) -> dict[str, mx.array]:
    """All tensors of a folder's weight files. Does not load their values.

    Raises:
        MissingFilesError: There are none, or a file that the index names is missing.
        WeightsError: The header of a file cannot be read.
    """
    if missing := missing_files(folder):
        raise MissingFilesError(f"{folder} is missing {missing}.", "Download it again.")
    weights: dict[str, mx.array] = {}
    for file in weight_files(folder):
        try:
            weights.update(mx.load(str(file)))
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"{file} cannot be read: {error}.", "Download it again."
            ) from None
    return weights


def quantized_bits(folder: Path) -> int | None:
    """Bits of the quantized layers, from `quantization` in config.json, or None.

    Raises:
        ConfigError: The field is of a wrong kind.
    """
    file = ConfigFile(folder)
    found = file.get("quantization", dict, {})
    file.check("quantization", not found or type(found.get("bits")) is int)
    return found.get("bits")


def quantize_layers(model: nn.Module, bits: int, weights: dict[str, mx.array]) -> None:
    """Quantize those layers of an empty `model` that are quantized in `weights`."""

    def predicate(path: str, module: nn.Module) -> bool | dict[str, int]:
        scales = weights.get(f"{path}.scales")
        if scales is None:
            return False
        return {"bits": bits, "group_size": module.weight.shape[1] // scales.shape[1]}

    nn.quantize(model, class_predicate=predicate)


def load_weights(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    """Put the tensors into `model`: none missing, none left over, all shapes equal.

    Raises:
        WeightsError: With the names and shapes that differ; or a file is truncated.
    """
    check_weights(model, weights, folder)
    model.load_weights(list(weights.items()))
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} has a truncated file: {error}.", "Download it again."
        ) from None


def check_weights(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    """Raise WeightsError, with names and shapes, unless the tensors fit the model.

    Reads only the headers of the files.
    """
    wanted = dict(tree_flatten(model.parameters()))
    missing = sorted(wanted.keys() - weights.keys())
    extra = sorted(weights.keys() - wanted.keys())
    if missing or extra:
        parts = [f"is missing {join_names(missing)}"] if missing else []
        parts += [f"has unknown tensors: {join_names(extra)}"] if extra else []
        raise WeightsError(
            f"{folder} {' and '.join(parts)}.",
            "Check that its config.json and weights belong together.",
        )
    for name, array in wanted.items():
        if weights[name].shape != array.shape:
            raise WeightsError(
                f"{folder} has {name} of shape {list(weights[name].shape)}, but its "
                f"config.json requires {list(array.shape)}.",
                "Check that its config.json and weights belong together.",
            )


def join_names(names: list[str], most: int = 6) -> str:
    """The names, separated by commas; only the first `most` of a long list."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
