"""A drafter's folder: config fields and tensors, read strictly.

Owns the rules about where a field may live and what makes a folder complete. Every
failure names the file and the field or tensor. Knows nothing of model classes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import ConfigError, MissingFilesError, WeightsError
from ...hub.download import missing_files

MISSING = object()


class Config:
    """config.json of a drafter, with one lookup for fields that wander.

    A field may stand in `dflash_config`, `dspark_config`, at the root or in
    `transformer_layer_config`; in two of them with different values it is an error.

    Args:
        folder: The checkpoint's folder.

    Raises:
        MissingFilesError: No folder or no config.json.
        ConfigError: config.json is not JSON.
    """

    PLACES = ("dflash_config", "dspark_config", "", "transformer_layer_config")

    def __init__(self, folder: Path):
        self.path = folder / "config.json"
        if not self.path.is_file():
            raise MissingFilesError(
                f"{folder} has no config.json.",
                "Point --draft at a drafter's folder or Hub id.",
            )
        try:
            self.root: dict[str, Any] = json.loads(self.path.read_text())
        except ValueError as error:
            raise ConfigError(f"{self.path} is not valid JSON: {error}.") from None
        if not isinstance(self.root, dict):
            raise ConfigError(f"{self.path} is no JSON object.")
        for place in self.PLACES:
            if not isinstance(self.root.get(place) or {}, dict):
                raise ConfigError(f"{self.path} gives {place} as {self.root[place]!r}.")
        self._settled: dict[str, Any] = {}
        self.architectures: list[str] = self.root.get("architectures") or []
        names = self.architectures
        listed = isinstance(names, list) and all(isinstance(n, str) for n in names)
        self.check("architectures", listed)

    def settle(self, fields: dict[str, Any]) -> Config:
        """This config with `fields` so, whatever the file says; None is absent."""
        twin = copy.copy(self)
        twin._settled = self._settled | fields
        return twin

    def found(self, field: str) -> dict[str, Any]:
        """Where the file gives `field`, and as what; nulls are not given."""
        places = {
            p: self.root if not p else self.root.get(p) or {} for p in self.PLACES
        }
        return {
            place: values[field]
            for place, values in places.items()
            if values.get(field) is not None
        }

    def has(self, field: str) -> bool:
        """Whether the file gives `field` anywhere."""
        return bool(self.found(field))

    def get(self, field: str, kind: type | tuple[type, ...], default: Any = MISSING):
        """The value of `field`, checked to be of `kind`.

        Args:
            field: Its name.
            kind: int, float, str, list, dict or several; int passes for float.
            default: What absence or null means; without it absence is an error.
        """
        value = self._value(field)
        if value is None:
            if default is MISSING:
                raise ConfigError(
                    f"{self.path} has no {field}.",
                    f"Is this a drafter's folder, and whole? Add {field} as published.",
                )
            return default
        if kind is float and type(value) is int:
            value = float(value)
        wrong = isinstance(value, bool) and kind is not bool
        self.check(field, isinstance(value, kind) and not wrong)
        return value

    def check(self, field: str, ok: bool) -> None:
        """Raise ConfigError with the value of `field` unless `ok`."""
        if not ok:
            raise ConfigError(
                f"{self.path} gives {field} as {self._value(field)!r}.",
                "Correct it there.",
            )

    def _value(self, field):
        if field in self._settled:
            return self._settled[field]
        found = self.found(field)
        values = list(found.values())
        if any(value != values[0] for value in values):
            told = " and ".join(
                f"{value!r} {f'in {place}' if place else 'at the root'}"
                for place, value in found.items()
            )
            raise ConfigError(
                f"{self.path} gives {field} as {told}.", "Remove the wrong one."
            )
        return values[0] if values else None


def read_weights(folder: Path) -> dict[str, mx.array]:
    """All tensors of a folder's safetensors files, still lazy.

    Raises:
        MissingFilesError: There are none, or a file that the index names is absent.
        WeightsError: A file's header cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    if missing := missing_files(folder):
        raise MissingFilesError(f"{folder} lacks {missing}.", "Download it again.")
    weights: dict[str, mx.array] = {}
    for file in files:
        try:
            weights.update(mx.load(str(file)))
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"{file} cannot be read: {error}.", "Download it again."
            ) from None
    return weights


def packed_bits(folder: Path) -> int | None:
    """Bits of packed layers, as config.json's `quantization` tells; None is none.

    Raises:
        ConfigError: They are of a wrong kind.
    """
    config = Config(folder)
    found = config.get("quantization", dict, {})
    config.check("quantization", not found or type(found.get("bits")) is int)
    return found.get("bits")


def pack(model: nn.Module, bits: int, weights: dict[str, mx.array]) -> None:
    """Quantize the layers of `model`, still empty, whose tensors are packed."""

    def packed(path: str, module: nn.Module) -> bool | dict[str, int]:
        scales = weights.get(f"{path}.scales")
        if scales is None:
            return False
        return {"bits": bits, "group_size": module.weight.shape[1] // scales.shape[1]}

    nn.quantize(model, class_predicate=packed)


def fill(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    """Put every tensor into `model`: none missing, none left over, shapes equal.

    Raises:
        WeightsError: With the names and shapes that differ, or a truncated file.
    """
    compare(model, weights, folder)
    model.load_weights(list(weights.items()))
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} has a truncated file: {error}.", "Download it again."
        ) from None


def compare(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    """Raise WeightsError, with names and shapes, unless the tensors are the model's.

    Nothing is read but the files' headers.
    """
    wanted = dict(tree_flatten(model.parameters()))
    missing = sorted(wanted.keys() - weights.keys())
    extra = sorted(weights.keys() - wanted.keys())
    if missing or extra:
        parts = [f"lacks {brief(missing)}"] if missing else []
        parts += [f"has unknown {brief(extra)}"] if extra else []
        raise WeightsError(f"{folder} {' and '.join(parts)}.")
    for name, array in wanted.items():
        if weights[name].shape != array.shape:
            raise WeightsError(
                f"{folder} has {name} as {list(weights[name].shape)}, but its config "
                f"asks for {list(array.shape)}."
            )


def brief(names: list[str], most: int = 6) -> str:
    """A list of names, cut when long."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
