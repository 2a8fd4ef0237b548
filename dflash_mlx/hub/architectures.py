"""Read the table of mlx-lm's architectures: which can draft, and why others cannot.

Owns the records of architectures.toml, which `python -m benchmarks.examine` writes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# Verdicts of an examination.
DRAFTS, PLAIN, UNKNOWN = "drafts", "plain only", "not examined"


@dataclass(frozen=True)
class Family:
    """The result of examining an architecture with a tiny random model.

    Args:
        name: The module in mlx_lm.models.
        caches: Cache classes, with the number of layers that have each.
        verdict: DRAFTS, PLAIN (it decodes but cannot draft) or UNKNOWN (the machine
            that ran the examination cannot run it).
        difference: Largest difference in float32 logits between one pass over a block
            and passes over single rows; 0 means they agree bit for bit.
        reason: Why it cannot draft.
    """

    name: str
    caches: str
    verdict: str
    difference: float = 0.0
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether a pass over a block agrees bit for bit with passes over its rows."""
        return self.verdict == DRAFTS and self.difference == 0


def read() -> tuple[str, list[Family]]:
    """Read the examined versions of MLX and mlx-lm, and the result for each family."""
    table = tomllib.loads(_text())
    return table["versions"], [Family(**row) for row in table["family"]]


@cache
def find(name: str) -> Family | None:
    """The result for one family, or None. Parses no other, which would take 50 ms."""
    for row in _text().split("[[family]]")[1:]:
        if f'name = "{name}"\n' in row:
            return Family(**tomllib.loads(row))
    return None


def _text():
    return files(__package__).joinpath("architectures.toml").read_text()
