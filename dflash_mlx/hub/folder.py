"""The weight files of a model's folder: which are read, and whether they are complete.

Does not know the Hub, models or what is in a config.json.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ..errors import ConfigError

# mlx-lm reads these and no others.
WEIGHTS = "model*.safetensors"
# A drafter may be published under another name.
OTHER_WEIGHTS = "*.safetensors"
LINK = "a link to a file that does not exist"


def weight_files(path: Path) -> list[Path]:
    """The weight files of a folder that are read, sorted.

    The same weights may lie beside them under other names.
    """
    return sorted(path.glob(WEIGHTS)) or sorted(path.glob(OTHER_WEIGHTS))


def weight_bytes(path: Path) -> int:
    """Size in bytes of a folder's weight files."""
    return sum(file.stat().st_size for file in weight_files(path))


def missing_files(path: Path) -> str:
    """The files that a model's folder lacks, as text; empty if it is complete.

    Raises:
        ConfigError: As in read_index.
    """
    if not (path / "config.json").is_file():
        return "config.json"
    files = weight_files(path)
    if broken := [file.name for file in files if not file.is_file()]:
        return f"{', '.join(broken)} ({LINK})"
    index = read_index(path)
    missing = {name for name in index.values() if not (path / name).is_file()}
    if missing and not is_outdated(index, missing, files):
        return ", ".join(sorted(missing))
    if files:
        return ""
    others = sorted(file.name for file in path.glob("*.bin"))
    note = f"; mlx-lm cannot read {others[0]}" if others else ""
    return f"weights (*.safetensors{note})"


def is_outdated(index: dict[str, str], missing: set[str], files: list[Path]) -> bool:
    """Whether an index is older than the weights, as after a conversion that merged
    files and left the index as it was.

    Args:
        index: From read_index.
        missing: The files of the index that do not exist.
        files: The weight files that exist.

    Returns:
        True if there is a complete file that the index does not name, or if the other
        files hold what the missing ones held.
    """
    found = {file.name: tensor_names(file) for file in files}
    if any(names for file, names in found.items() if file not in index.values()):
        return True
    held = set().union(*found.values())
    return all(name in held for name, file in index.items() if file in missing)


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor by the index of a folder; empty without an index.

    Raises:
        ConfigError: The index is not valid.
    """
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return {}
    try:
        files = json.loads(index.read_text())["weight_map"]
        return {name: str(file) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{index} is not a valid index of weights.", "Download it again."
        ) from None


def tensor_names(file: Path) -> set[str]:
    """The names of the tensors in a safetensors file; none if it is not complete."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, file.stat().st_size)))
        header.pop("__metadata__", None)
        end = max((each["data_offsets"][1] for each in header.values()), default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return set()
    return set(header) if 8 + length + end == file.stat().st_size else set()
