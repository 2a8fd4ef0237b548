"""The packagings of published drafters, and which one a folder has.

Owns the order in which packagings are tried. The result is a config of config.py and
tensors under our names; a convention that no field states becomes a note, so that
`dflash-mlx inspect` can show it and probe it. Does not know how a drafter computes.
"""

from __future__ import annotations

from pathlib import Path

from ....errors import ConfigError
from ..config_file import ConfigFile
from . import deepspec, nvidia, others, zlab
from .base import Packaging, Reading
from .speculators import SPECULATORS

# The first that matches is used.
PACKAGINGS: tuple[Packaging, ...] = (
    *SPECULATORS,
    others.LAGUNA,
    others.MUSE,
    others.SPECFORGE,
    nvidia.DSPARK,
    deepspec.GEMMA4,
    deepspec.QWEN35,
    deepspec.QWEN3,
    others.LIQUID,
    zlab.DFLASH2,
    nvidia.DFLASH,
    zlab.DFLASH,
)


def read(folder: Path) -> Reading:
    """Read the config.json of a drafter's folder.

    Raises:
        MissingFilesError: There is no config.json.
        ConfigError: It is of no known packaging, or a field is wrong in its packaging.
    """
    file = ConfigFile(folder)
    for packaging in PACKAGINGS:
        if packaging.matches(file):
            return packaging.read(file)
    names = ", ".join(file.architectures) or file.root.get("model_type")
    raise ConfigError(
        f"{file.path} describes {names}, which this version cannot run.",
        "`dflash-mlx models` lists the known drafters.",
    )
