"""Names to repositories: which model an alias means, which drafters fit a target.

Reads pairs.toml, and nothing else: no network, no files of models.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UnknownModelError

# Drafter kinds that this version runs.
RUNS = ("dflash", "dflash2", "dspark", "speculators")
TINY = "tiny"
# The embedded pair's drafters, and their folders beside its target.
EMBEDDED = {"tiny": "drafter", "tiny-dflash2": "dflash2"}


@dataclass(frozen=True)
class Measured:
    """What somebody published of a drafter on answers with thinking and without.

    Args:
        what: What the figures count.
        thinking, without: The figures, as they were published.
        source: Where.
    """

    what: str
    thinking: str
    without: str
    source: str


@dataclass(frozen=True)
class DrafterEntry:
    """A published drafter: repository, kind, the answers it was trained on, and what
    those count for, where it was published."""

    repo: str
    kind: str
    mode: str
    measured: Measured | None = None

    @property
    def runs(self) -> bool:
        """Whether this version can run it."""
        return self.kind in RUNS


@dataclass(frozen=True)
class TargetEntry:
    """A target with its drafters, best first.

    Args:
        alias: The short name.
        model: The repository that the alias loads.
        name: What the names of all its copies contain.
        numbers: (model_type, hidden_size, layers, vocabulary), if known.
        drafters: Published drafters.
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
            tuple(_drafter(**drafter) for drafter in row["drafters"]),
        )
        for row in rows["target"]
    )


def _drafter(repo, kind, mode, measured=None):
    return DrafterEntry(repo, kind, mode, Measured(**measured) if measured else None)


def drafter_entry(repo: str) -> DrafterEntry | None:
    """What is known of a drafter's repository."""
    for entry in targets():
        for drafter in entry.drafters:
            if drafter.repo == repo:
                return drafter
    return None


def resolve(name: str) -> str:
    """An alias's repository; folders and Hub ids stand for themselves.

    Raises:
        UnknownModelError: `name` is none of the three; the nearest aliases are named.
    """
    known = {entry.alias: entry.model for entry in targets()}
    if name.lower() in known:
        return known[name.lower()]
    if Path(name).expanduser().is_dir():
        return name
    if name.startswith((".", "/", "~")):
        raise UnknownModelError(f"There is no folder {name}.", "Check the path.")
    if name.count("/") == 1:
        return name
    likely = name.lower().replace("_", "-")
    close = difflib.get_close_matches(likely, known, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise UnknownModelError(
        f"{name!r} is no known alias, folder or Hub id.",
        f"{hint}`dflash-mlx models` lists the aliases.",
    )


def resolve_drafter(name: str) -> str:
    """A drafter's repository or folder; a target's alias means its best drafter.

    Raises:
        UnknownModelError: As `resolve`, or no drafter of that target runs here.
    """
    for entry in targets():
        if entry.alias == name.lower():
            usable = [drafter.repo for drafter in entry.drafters if drafter.runs]
            if not usable:
                raise UnknownModelError(
                    f"This version runs no drafter of {name}.",
                    "`dflash-mlx models` lists what runs.",
                )
            return usable[0]
    if name.lower() in EMBEDDED:
        return name.lower()
    return resolve(name)


def numbers_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """model_type, hidden_size, num_layers and vocab_size of a target's config.json,
    also where a text model is nested in a vision-language one."""
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    return {
        "model_type": config.get("model_type"),
        "hidden_size": text.get("hidden_size"),
        "num_layers": text.get("num_hidden_layers"),
        "vocab_size": text.get("vocab_size", config.get("vocab_size")),
    }


def find_target(config: Mapping[str, Any], name: str = "") -> list[TargetEntry]:
    """Entries that a target may be, by its numbers; its name settles a tie.

    Args:
        config: The target's config.json.
        name: Its repository or folder.

    Returns:
        No entry, one, or several that the name does not tell apart.
    """
    numbers = tuple(numbers_of(config).values())
    by_numbers = [entry for entry in targets() if entry.numbers == numbers]
    pool = by_numbers or [entry for entry in targets() if entry.numbers is None]
    by_name = [entry for entry in pool if entry.name.lower() in name.lower()]
    return by_name or by_numbers
