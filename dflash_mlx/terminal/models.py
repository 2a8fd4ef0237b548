"""`models`: the registry as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..registry import targets


def show() -> None:
    """Print every alias with what it loads and its drafters."""
    table = Table("alias", "loads", "drafter", "kind", "trained on", "runs")
    for entry in targets():
        for i, drafter in enumerate(entry.drafters):
            table.add_row(
                entry.alias if i == 0 else "",
                entry.model if i == 0 else "",
                drafter.repo,
                drafter.kind,
                drafter.mode,
                "yes" if drafter.runs else "not yet",
                end_section=i + 1 == len(entry.drafters),
            )
    console = Console()
    # A pipe gets whole names; a terminal wraps them.
    console.print(table) if console.is_terminal else Console(width=200).print(table)
