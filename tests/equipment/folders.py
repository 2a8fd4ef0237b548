"""Folders of models for tests to change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dflash_mlx.hub.find import TINY_FOLDER


def copy_tiny(out: Path) -> Path:
    """Copy the embedded pair to folder `out`."""
    return shutil.copytree(TINY_FOLDER, out)


def change_json(file: Path, **fields) -> None:
    """Set fields of a JSON object in a file; None removes a field."""
    config = json.loads(file.read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    file.write_text(json.dumps(config))
