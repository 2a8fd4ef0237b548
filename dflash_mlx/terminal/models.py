"""`models`: tables of the known models and of mlx-lm's architectures."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..hub import architectures
from ..hub.registry import targets


def show() -> None:
    """Print every alias with its model and its drafters."""
    table = Table("alias", "model", "drafter", "kind", "trained on", "runs")
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
    print_table(table)


def show_families() -> None:
    """Print every architecture of mlx-lm and how it decodes here."""
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
        f"Measured with tiny random models in float32 on the CPU, {versions}. "
        "'drafts': DFlash runs. 'plain only': use --plain. 'against single rows': how "
        "far the logits of a block pass are from the logits of one-row passes."
    )
    print_table(table)


def print_table(table: Table) -> None:
    """Print a table: wrapped on a terminal, with unbroken names into a pipe."""
    console = Console()
    console.print(table) if console.is_terminal else Console(width=200).print(table)
