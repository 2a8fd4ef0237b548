"""Broken files of ours are set aside, never deleted."""

from __future__ import annotations

from pathlib import Path


def set_aside(path: Path) -> Path:
    """Give a broken file another name, NAME.broken or the next that is free; that."""
    first = path.with_name(f"{path.name}.broken")
    others = (first.with_name(f"{first.name}-{n}") for n in range(2, 1000))
    aside = next(name for name in (first, *others) if not name.exists())
    return path.replace(aside)
