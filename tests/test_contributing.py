"""CONTRIBUTING.md shows the rooms of the package as they are."""

import re
from pathlib import Path

import dflash_mlx
from tests.test_layout import ROWS

PACKAGE = Path(dflash_mlx.__file__).parent
PAGE = PACKAGE.parent / "CONTRIBUTING.md"
NAME = re.compile(r"`([\w/]+)`")


def rooms() -> list[tuple[str, list[str]]]:
    """(rooms, modules) of each row of the table between the marks."""
    text = PAGE.read_text()
    table = text[text.index("<!-- rooms -->") : text.index("<!-- end of rooms -->")]
    rows = [line.split("|")[1:4] for line in table.splitlines() if line[:2] == "| "]
    return [(NAME.findall(a), NAME.findall(b)) for a, b, _ in rows if "`" in a]


def modules(folder: str) -> set[str]:
    files = {f.stem for f in (PACKAGE / folder).glob("*.py")} - {"__init__"}
    folders = {f.parent.name for f in (PACKAGE / folder).glob("*/__init__.py")}
    return files | {f"{name}/" for name in folders}


def test_the_table_has_every_room_in_the_order_of_the_rows():
    listed = [name for names, _ in rooms() for name in names if "/" not in name]
    assert listed == [name for row in ROWS for name in row]


def test_every_room_lists_its_modules():
    for names, listed in rooms():
        (name,) = names if len(names) == 1 else (None,)
        if name and (PACKAGE / name).is_dir():
            found = {m.removesuffix("/") for m in modules(name)}
            assert found == set(listed), f"{name}: {sorted(found ^ set(listed))}"
