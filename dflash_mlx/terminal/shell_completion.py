"""Shell completion of option values: aliases, drafters, shapes, suites, classes.

Reads the package's tables and imports nothing heavy, since a key press waits for it.
Copies some names from modules that are heavy to import; a test compares them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from ..hub import registry

Completer = Callable[[str], list[str]]
KERNELS = ("auto", "off", "exact")
SUITES = ("builtin", "gsm8k", "math500", "humaneval", "mbpp", "mt-bench", "aime25")


def words(*choices: str) -> Completer:
    """A completer of fixed words."""
    return lambda incomplete: [word for word in choices if word.startswith(incomplete)]


def models(incomplete: str) -> list[tuple[str, str]]:
    """Aliases, with the repository that each loads."""
    return [
        (entry.alias, entry.model)
        for entry in registry.targets()
        if entry.alias.startswith(incomplete)
    ]


def drafters(incomplete: str) -> list[tuple[str, str]]:
    """Drafters that run here, by repository or embedded name, and `none`."""
    known = [
        (drafter.repo, f"{drafter.kind} of {entry.alias}")
        for entry in registry.targets()
        for drafter in entry.drafters
        if drafter.runs
    ]
    known.append(("none", "plain decoding"))
    return [each for each in known if each[0].startswith(incomplete)]


def targets_of_drafters(incomplete: str) -> list[tuple[str, str]]:
    """Drafters, and aliases of targets, which stand for their drafter."""
    return [*models(incomplete), *drafters(incomplete)]


def shapes(incomplete: str) -> list[str]:
    """Names in bench/shapes.toml, and race, the shape of the CPU benchmarks."""
    return words("race", *read_table("shapes.toml")["shape"])(incomplete)


def classes(incomplete: str) -> list[str]:
    """Classes of the built-in suite of prompts."""
    named = [name for name in read_table("prompts.toml") if name != "text"]
    return words(*named, "exercises", "random")(incomplete)


def read_table(name: str) -> dict[str, Any]:
    """A TOML file of bench/."""
    file = files(__package__.rpartition(".")[0]).joinpath("bench", name)
    return tomllib.loads(file.read_text())
