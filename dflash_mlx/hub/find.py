"""Which folder holds a model, and which drafter belongs to a target.

Reads config.json files and the registry. Downloads are download.py's; weights are read
in loading.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MissingFilesError
from . import download, registry

TINY_FOLDER = Path(__file__).parent.parent / "models" / "tiny"


def folder_of_target(model: str, revision: str | None) -> Path:
    """The folder of an alias, Hub id or folder name."""
    name = registry.resolve(model)
    return TINY_FOLDER if name == registry.TINY else download.folder_of(name, revision)


def folder_of_drafter(name: str, revision: str | None = None) -> Path:
    """The folder of a drafter's alias, Hub id or folder name."""
    name = registry.resolve_drafter(name)
    if name in registry.EMBEDDED:
        return TINY_FOLDER / registry.EMBEDDED[name]
    return download.folder_of(name, revision)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a target's folder, with the numbers that everything needs.

    Raises:
        ConfigError: It is no JSON object, or lacks one of them.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file} is no JSON object.")
    numbers = registry.numbers_of(config)
    for field, value in numbers.items():
        kind = str if field == "model_type" else int
        if value is not None and type(value) is not kind:
            raise ConfigError(f"{file} gives {field} as {value!r}.")
    lacking = [field for field, value in numbers.items() if value is None]
    if lacking:
        lacking = ["num_hidden_layers" if n == "num_layers" else n for n in lacking]
        raise ConfigError(
            f"{file} has no {', '.join(lacking)}.",
            "Is this the folder of a language model?",
        )
    return config


def find_drafter(
    config: dict[str, Any], model: str, folder: Path, draft: str | None
) -> tuple[Path | None, str]:
    """The drafter's folder, or why there is none.

    A drafter that was found, not named, and cannot be had leaves plain decoding.
    """
    name, reason = name_drafter(config, f"{model} {folder}", draft)
    if name is None:
        return None, reason
    try:
        return folder_of_drafter(name), ""
    except MissingFilesError as error:
        if draft:
            raise
        return None, f"its drafter is not to be had: {error}"


def name_drafter(
    config: dict[str, Any], target: str, draft: str | None
) -> tuple[str | None, str]:
    """Which drafter is meant, or why none; nothing is fetched.

    Args:
        config: The target's config.json.
        target: Its names.
        draft: The drafter that was asked for; None finds the published one.
    """
    if draft == "none":
        return None, "drafting is off"
    if draft:
        return draft, ""
    found = registry.find_target(config, target)
    if len(found) > 1:
        names = ", ".join(f"{e.name} ({e.drafters[0].repo})" for e in found)
        return None, f"the model may be any of {names}: choose with --draft"
    if not found:
        return None, "no drafter is known for this model"
    usable = [drafter for drafter in found[0].drafters if drafter.runs]
    if not usable:
        kinds = ", ".join(f"{d.repo} ({d.kind})" for d in found[0].drafters)
        return None, f"this version cannot run the drafters of this model: {kinds}"
    return usable[0].repo, ""
