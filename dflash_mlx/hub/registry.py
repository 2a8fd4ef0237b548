"""Known models: the repositories of aliases, and the drafters of targets.

Owns the records of pairs.toml. Does not access the network or the files of models.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError

# Kinds of drafters that this version can run.
RUNS = ("dflash", "dflash2", "dspark", "speculators")
TINY = "tiny"
# Drafters of the embedded pair, and their folders inside the target's.
EMBEDDED = {"tiny": "drafter", "tiny-dflash2": "dflash2"}


@dataclass(frozen=True)
class PublishedResult:
    """Published results of a drafter on answers with thinking and without.

    Args:
        what: The quantity that was measured.
        thinking, without: The results, as they were published.
        source: Where they were published.
    """

    what: str
    thinking: str
    without: str
    source: str


@dataclass(frozen=True)
class DrafterEntry:
    """A published drafter.

    Args:
        repo: The repository, or the name of an embedded drafter.
        kind: dflash, dflash2, dspark, speculators or another.
        mode: The kind of answers that it was trained on.
        measured: Published results that show the effect of the mode.
    """

    repo: str
    kind: str
    mode: str
    measured: PublishedResult | None = None

    @property
    def runs(self) -> bool:
        """Whether this version can run the drafter."""
        return self.kind in RUNS


@dataclass(frozen=True)
class TargetEntry:
    """A target and its published drafters.

    Args:
        alias: The short name.
        model: The repository that the alias stands for.
        name: Text that the names of all copies of the target contain.
        numbers: (model_type, hidden_size, layers, vocabulary), if known.
        drafters: The drafters, best first.
    """

    alias: str
    model: str
    name: str
    numbers: tuple[str, int, int, int] | None
    drafters: tuple[DrafterEntry, ...]


@cache
def targets() -> tuple[TargetEntry, ...]:
    """All entries of pairs.toml."""
    rows = tomllib.loads(files(__package__).joinpath("pairs.toml").read_text())
    return tuple(
        TargetEntry(
            row["alias"],
            row["model"],
            row["name"],
            tuple(row["numbers"]) if "numbers" in row else None,
            tuple(_drafter_entry(**drafter) for drafter in row["drafters"]),
        )
        for row in rows["target"]
    )


def _drafter_entry(repo, kind, mode, measured=None):
    result = PublishedResult(**measured) if measured else None
    return DrafterEntry(repo, kind, mode, result)


def drafter_entry(repo: str) -> DrafterEntry | None:
    """The entry of a drafter's repository, or None for an unknown one."""
    for entry in targets():
        for drafter in entry.drafters:
            if drafter.repo == repo:
                return drafter
    return None


def resolve(name: str) -> str:
    """The repository of an alias. A folder or Hub id is returned unchanged.

    Raises:
        UnknownModelError: `name` is none of these. The hint has the closest aliases.
    """
    known = {entry.alias: entry.model for entry in targets()}
    if name.lower() in known:
        return known[name.lower()]
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return name
    if path.is_file() or path.suffix.lower() == ".gguf":
        raise file_error(name)
    if name.startswith((".", "/", "~")):
        raise UnknownModelError(f"There is no folder {name}.", "Check the path.")
    if name.count("/") == 1:
        return name
    likely = name.lower().replace("_", "-")
    close = difflib.get_close_matches(likely, known, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise UnknownModelError(
        f"{name!r} is not a known alias, folder or Hub id.",
        f"{hint}`dflash-mlx models` lists the aliases.",
    )


def file_error(name: str) -> UnknownModelError:
    """The error for a file in place of a model's folder."""
    if name.lower().endswith(".gguf"):
        return UnknownModelError(
            f"{name} is a GGUF file, the format of llama.cpp, which mlx-lm cannot "
            "read.",
            "Use the model in safetensors: `dflash-mlx models` lists some, and "
            "mlx-community on the Hub has most.",
        )
    return UnknownModelError(
        f"{name} is a file, but a model is a folder with a config.json.",
        "Name the folder.",
    )


def note_on_name(name: str) -> str:
    """A note if a name means an alias and a folder at once; else empty."""
    taken = {entry.alias: entry.model for entry in targets()}.get(name.lower())
    if taken is None or not Path(name).is_dir():
        return ""
    return (
        f"{name} is an alias, so this uses {taken}. For the folder of that name, write "
        f"./{name}."
    )


def resolve_drafter(name: str) -> str:
    """The repository or folder of a drafter. A target's alias gives its best drafter.

    Raises:
        UnknownModelError: As in `resolve`, or this version cannot run any drafter of
            the target.
    """
    for entry in targets():
        if entry.alias == name.lower():
            usable = [drafter.repo for drafter in entry.drafters if drafter.runs]
            if not usable:
                raise UnknownModelError(
                    f"This version cannot run any drafter of {name}.",
                    "`dflash-mlx models` lists the drafters that it can run.",
                )
            return usable[0]
    if name.lower() in EMBEDDED:
        return name.lower()
    return resolve(name)


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a target's config.json that identify it.

    The text model of a vision-language model has them in `text_config`.

    Returns:
        model_type, hidden_size, num_layers and vocab_size; None for a missing one.
    """
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    return {
        "model_type": config.get("model_type"),
        "hidden_size": text.get("hidden_size"),
        "num_layers": text.get("num_hidden_layers"),
        "vocab_size": text.get("vocab_size", config.get("vocab_size")),
    }


def find_target(config: Mapping[str, Any], name: str = "") -> list[TargetEntry]:
    """Find the entries of a target by its numbers, then by its name.

    Args:
        config: The target's config.json.
        name: The target's repository or folder.

    Returns:
        No entry, one, or several that the name does not distinguish.
    """
    numbers = tuple(numbers_of(config).values())
    by_numbers = [entry for entry in targets() if agree(entry.numbers, numbers)]
    pool = by_numbers or [entry for entry in targets() if entry.numbers is None]
    by_name = [entry for entry in pool if entry.name.lower() in name.lower()]
    return by_name or by_numbers


def agree(known: tuple | None, found: tuple) -> bool:
    """Whether the numbers of a config.json can be those of an entry.

    A config may leave some out, which the loaded model then shows.

    Args:
        known: The entry's (model_type, hidden_size, layers, vocabulary), or None.
        found: The config's, with None for a missing one.
    """
    if known is None or known[0] != found[0] or not any(found[1:]):
        return False
    return all(b in (None, a) for a, b in zip(known, found, strict=True))
