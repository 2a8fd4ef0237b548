"""What a shell completes: aliases, shapes, suites, kinds.

Reads the package's tables and imports nothing heavy: a key press waits for it. That the
names are those of the modules which own them, tests/test_completion.py checks.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from ..hub import registry

Completer = Callable[[str], list[str]]
KERNELS = ("auto", "off", "exact")
KINDS = ("dflash", "dflash2", "dspark")
SUITES = ("builtin", "gsm8k", "math500", "humaneval", "mbpp", "mt-bench", "aime25")


def words(*known: str) -> Completer:
    """A completer of some words."""
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


def models(incomplete: str) -> list[tuple[str, str]]:
    """Aliases, and what they load."""
    return [
        (entry.alias, entry.model)
        for entry in registry.targets()
        if entry.alias.startswith(incomplete)
    ]


def drafters(incomplete: str) -> list[tuple[str, str]]:
    """Drafters by repository, or the name of an embedded one; `none` is none."""
    known = [
        (drafter.repo, f"{drafter.kind} of {entry.alias}")
        for entry in registry.targets()
        for drafter in entry.drafters
        if drafter.runs
    ]
    known.append(("none", "plain decoding"))
    return [each for each in known if each[0].startswith(incomplete)]


def targets_of_drafters(incomplete: str) -> list[tuple[str, str]]:
    """Drafters, and the aliases of their targets."""
    return [*models(incomplete), *drafters(incomplete)]


def shapes(incomplete: str) -> list[str]:
    """Names of bench/shapes.toml, and the race's."""
    return words("race", *_table("shapes.toml")["shape"])(incomplete)


def classes(incomplete: str) -> list[str]:
    """Classes of the built-in suite."""
    named = [name for name in _table("prompts.toml") if name != "text"]
    return words(*named, "exercises", "random")(incomplete)


def _table(name: str) -> dict[str, Any]:
    file = files(__package__.rpartition(".")[0]).joinpath("bench", name)
    return tomllib.loads(file.read_text())
