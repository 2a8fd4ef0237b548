"""Broken files of ours are set aside, never deleted."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path


def set_aside(path: Path) -> Path:
    """Give a broken file another name, NAME.broken or the next that is free; that.

    Raises:
        OSError: Its folder does not let us.
    """
    first = path.with_name(f"{path.name}.broken")
    others = (first.with_name(f"{first.name}-{n}") for n in count(2))
    aside = next(name for name in chain([first], others) if not name.exists())
    return path.replace(aside)
