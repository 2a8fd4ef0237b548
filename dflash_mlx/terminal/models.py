"""`models`: the registry as a table, or the table of architectures."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..hub import architectures
from ..hub.registry import targets


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
    put(table)


def show_families() -> None:
    """Print every architecture of mlx-lm with what it can do here."""
    versions, found = architectures.read()
    table = Table("architecture", "decodes", "against single rows", "caches", "why")
    for family in found:
        agreement = f"within {family.difference:.0e}"
        if family.exact:
            agreement = "bit for bit"
        elif family.verdict != architectures.DRAFTS:
            agreement = ""
        table.add_row(
            family.name, family.verdict, agreement, family.caches, family.reason
        )
    table.caption = (
        f"Tiny random models in float32 on the CPU, {versions}. 'drafts': DFlash "
        "runs; 'plain only': use --plain; 'against single rows': logits of a block's "
        "pass beside those of one-row passes."
    )
    put(table)


def put(table: Table) -> None:
    """Print a table; a pipe gets whole names, a terminal wraps them."""
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
