"""The table of mlx-lm's architectures: which draft, which only decode, and why.

Reads architectures.toml, which `python -m benchmarks.examine` writes.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

# What an examination may find, in the words of the table.
DRAFTS, PLAIN, UNKNOWN = "drafts", "plain only", "not examined"


@dataclass(frozen=True)
class Family:
    """What the examination of a tiny random model found.

    Args:
        name: The module of mlx_lm.models.
        caches: Kinds of cache, with their numbers.
        verdict: DRAFTS; PLAIN, when it runs but cannot draft; UNKNOWN, when the
            machine of the examination could not run it.
        difference: Largest difference of float32 logits between a pass over a block
            and passes over single rows; 0 where they agree bit for bit.
        reason: Why it does not draft.
    """

    name: str
    caches: str
    verdict: str
    difference: float = 0.0
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether block and single rows agree bit for bit."""
        return self.verdict == DRAFTS and self.difference == 0


def read() -> tuple[str, list[Family]]:
    """The versions that were examined, and what was found."""
    table = tomllib.loads(files(__package__).joinpath("architectures.toml").read_text())
    return table["versions"], [Family(**row) for row in table["family"]]
