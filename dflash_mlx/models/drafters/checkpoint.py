"""A drafter's folder: config fields and tensors, read strictly.

Owns the rules about where a field may live and what makes a folder complete. Every
failure names the file and the field or tensor. Knows nothing of model classes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ...errors import ConfigError, MissingFilesError, WeightsError
from ...hub import missing_files

MISSING = object()


class Config:
    """config.json of a drafter, with one lookup for fields that wander.

    A field may stand in `dflash_config` or at the root; in both with different
    values it is an error.

    Args:
        folder: The checkpoint's folder.

    Raises:
        MissingFilesError: No folder or no config.json.
        ConfigError: config.json is not JSON.
    """

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
        self.nested: dict[str, Any] = self.root.get("dflash_config") or {}
        if not isinstance(self.nested, dict):
            raise ConfigError(f"{self.path} gives dflash_config as {self.nested!r}.")

    def without(self, fields: Collection[str]) -> Config:
        """This config as if `fields` were not in it."""
        twin = copy.copy(self)
        twin.root = {k: v for k, v in self.root.items() if k not in fields}
        twin.nested = {k: v for k, v in self.nested.items() if k not in fields}
        return twin

    def get(self, field: str, kind: type | tuple[type, ...], default: Any = MISSING):
        """The value of `field`, checked to be of `kind`.

        Args:
            field: Its name.
            kind: int, float, str, list, dict or several; int passes for float.
            default: What absence or null means; without it absence is an error.
        """
        found = [s[field] for s in (self.nested, self.root) if s.get(field) is not None]
        if len(found) == 2 and found[0] != found[1]:
            raise ConfigError(
                f"{self.path} gives {field} as {found[0]!r} in dflash_config and as "
                f"{found[1]!r} at the root.",
                "Remove the wrong one.",
            )
        if not found:
            if default is MISSING:
                raise ConfigError(
                    f"{self.path} has no {field}.",
                    "Is this a DFlash drafter's folder?",
                )
            return default
        value = found[0]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (
            isinstance(value, bool) and kind is not bool
        ):
            raise ConfigError(f"{self.path} gives {field} as {value!r}.")
        return value


def sane(config: Config, field: str, value: Any, ok: bool) -> None:
    """Raise ConfigError unless `ok`."""
    if not ok:
        raise ConfigError(f"{config.path} gives {field} as {value!r}.")


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


def fill(model: nn.Module, weights: dict[str, mx.array], folder: Path) -> None:
    """Put every tensor into `model`: none missing, none left over, shapes equal.

    Raises:
        WeightsError: With the names and shapes that differ, or a truncated file.
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
    model.load_weights(list(weights.items()))
    try:
        mx.eval(model.parameters())
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} has a truncated file: {error}.", "Download it again."
        ) from None


def brief(names: list[str], most: int = 6) -> str:
    """A list of names, cut when long."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
