"""A drafter's config.json: its fields, looked up strictly.

Owns the rule about where a field may be written. Every failure names the file and the
field. Does not know what a field means.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ...errors import ConfigError, MissingFilesError

REQUIRED = object()


class ConfigFile:
    """The fields of a config.json.

    A field may be in `dflash_config`, in `dspark_config`, at the root or in
    `transformer_layer_config`. Two places with different values are an error.

    Args:
        folder: The checkpoint's folder.

    Raises:
        MissingFilesError: There is no such folder, or it has no config.json.
        ConfigError: config.json is not a JSON object.

    Attributes:
        path: The file.
        root: Its contents.
        architectures: The names of the model's classes; may be empty.
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
            raise ConfigError(f"{self.path} is not a JSON object.")
        for place in self.PLACES:
            if not isinstance(self.root.get(place) or {}, dict):
                raise ConfigError(
                    f"{self.path} has an invalid value for {place}: "
                    f"{self.root[place]!r} is not a JSON object."
                )
        self._overrides: dict[str, Any] = {}
        self.architectures: list[str] = self.root.get("architectures") or []
        names = self.architectures
        listed = isinstance(names, list) and all(isinstance(n, str) for n in names)
        self.check("architectures", listed)

    def with_overrides(self, fields: dict[str, Any]) -> ConfigFile:
        """A copy with other values for `fields`; None makes a field absent."""
        changed = copy.copy(self)
        changed._overrides = self._overrides | fields
        return changed

    def places_of(self, field: str) -> dict[str, Any]:
        """The value of `field` in each place that has it; null counts as absent."""
        places = {
            p: self.root if not p else self.root.get(p) or {} for p in self.PLACES
        }
        return {
            place: values[field]
            for place, values in places.items()
            if values.get(field) is not None
        }

    def has(self, field: str) -> bool:
        """Whether `field` is in any place."""
        return bool(self.places_of(field))

    def get(self, field: str, kind: type | tuple[type, ...], default: Any = REQUIRED):
        """The value of `field`.

        Args:
            field: Its name.
            kind: int, float, str, list, dict or several; an int passes for a float.
            default: The value if the field is absent or null. Without it, the field is
                required.

        Raises:
            ConfigError: The field is missing, of another kind, or has two values.
        """
        value = self._value(field)
        if value is None:
            if default is REQUIRED:
                raise ConfigError(
                    f"{self.path} has no {field}.",
                    "Check that this is a drafter's folder and that its config.json is "
                    "the published one.",
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
            raise self.invalid(field, self._value(field))

    def invalid(self, field: str, value: Any) -> ConfigError:
        """The error for a field with a wrong value."""
        return ConfigError(
            f"{self.path} has an invalid value for {field}: {value!r}.",
            "Restore the published value.",
        )

    def conflict(self, what: str) -> ConfigError:
        """The error for two values that contradict each other; `what` follows the
        file's name."""
        return ConfigError(f"{self.path} {what}.", "Remove the wrong one.")

    def _value(self, field):
        if field in self._overrides:
            return self._overrides[field]
        found = self.places_of(field)
        values = list(found.values())
        if any(value != values[0] for value in values):
            listed = " and ".join(
                f"{value!r} {f'in {place}' if place else 'at the root'}"
                for place, value in found.items()
            )
            raise self.conflict(f"has different values for {field}: {listed}")
        return values[0] if values else None
