"""Find the folder of a model, and the drafter of a target.

Owns the choice of a drafter. Does not know the Hub (download.py), the fields of a
target's config.json (config.py) or weights (loading.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingFilesError
from . import download, registry

TINY_FOLDER = Path(__file__).parent.parent / "models" / "tiny"


def folder_of_target(model: str, revision: str | None) -> Path:
    """The folder of a target.

    Args:
        model: Alias, Hub id or folder.
        revision: Branch, tag or commit of the repository.

    Raises:
        UnknownModelError, MissingFilesError: As in registry.resolve and
            download.local_folder.
    """
    name = registry.resolve(model)
    if name == registry.TINY:
        return TINY_FOLDER
    return download.local_folder(name, revision)


def folder_of_drafter(name: str, revision: str | None = None) -> Path:
    """The folder of a drafter.

    Args:
        name: Folder, Hub id, or the alias of its target.
        revision: Branch, tag or commit of the repository.

    Raises:
        UnknownModelError, MissingFilesError: As in registry.resolve_drafter and
            download.local_folder.
    """
    name = registry.resolve_drafter(name)
    if name in registry.EMBEDDED:
        return TINY_FOLDER / registry.EMBEDDED[name]
    return download.local_folder(name, revision)


def find_drafter(
    config: dict[str, Any], model: str, folder: Path, draft: str | None
) -> tuple[Path | None, str]:
    """Find the folder of a target's drafter, downloaded if necessary.

    Args:
        config: The target's config.json.
        model, folder: The target's name and folder.
        draft: As in choose_drafter.

    Returns:
        The folder, or None and the reason why there is none.

    Raises:
        MissingFilesError: The drafter was named and cannot be downloaded.
    """
    name, reason = choose_drafter(config, f"{model} {folder}", draft)
    if name is None:
        return None, reason
    try:
        return folder_of_drafter(name), ""
    except MissingFilesError as error:
        if draft:
            raise
        return None, f"its drafter could not be downloaded: {error}"


def choose_drafter(
    config: dict[str, Any], target: str, draft: str | None
) -> tuple[str | None, str]:
    """Choose the drafter of a target, without a download.

    Args:
        config: The target's config.json.
        target: The target's name and folder, in one text.
        draft: The requested drafter; "none" for none, None for the published one.

    Returns:
        The drafter's alias, Hub id or folder, or None and the reason why there is none.
    """
    if draft == "none":
        return None, "drafting is off"
    if draft:
        return draft, ""
    found = registry.find_target(config, target)
    if len(found) > 1:
        names = ", ".join(f"{e.name} ({e.drafters[0].repo})" for e in found)
        return None, f"the model can be any of {names}: choose one with --draft"
    if not found:
        return None, "no drafter is known for this model"
    usable = [drafter for drafter in found[0].drafters if drafter.runs]
    if not usable:
        kinds = ", ".join(f"{d.repo} ({d.kind})" for d in found[0].drafters)
        return None, f"this version cannot run the drafters of this model: {kinds}"
    return usable[0].repo, ""
