"""`models`: the known models, what they need, and what is downloaded already.

Owns the estimates of sizes. Does not know the Hub (hub/download.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import device
from ..bench.shapes import NamedShape, named_shapes
from ..errors import MissingFilesError
from ..hub import architectures, download, registry
from ..hub.find import TINY_FOLDER
from ..hub.folder import weight_bytes
from ..hub.registry import DrafterEntry, TargetEntry
from .download import BYTES_PER_VALUE, CONTEXT, format_size

# The size in a model's name, and the bits in that of its copy.
BILLIONS = re.compile(r"(\d+(?:\.\d+)?)B(?![a-z])", re.IGNORECASE)
BITS = re.compile(r"(\d)bit|MXFP(\d)", re.IGNORECASE)
# A quantized weight takes half a bit more: its group's scale and bias.
GROUP_BITS = 0.5
HALF_PRECISION = 16
CAPTION = (
    "Sizes are estimates until a model is here. +: without the drafter or the cache, "
    "whose size is not known. Memory: weights, drafter and {context:,} tokens of "
    "context; this machine has {memory}. `dflash-mlx models ALIAS` shows the drafters."
)


@dataclass(frozen=True)
class KnownModel:
    """A target of the registry on this machine.

    Args:
        entry: Its entry.
    """

    entry: TargetEntry

    @property
    def alias(self) -> str:
        """Its alias."""
        return self.entry.alias

    @property
    def is_toy(self) -> bool:
        """Whether it is the embedded pair."""
        return self.entry.model == registry.TINY

    @cached_property
    def drafter(self) -> DrafterEntry | None:
        """The drafter that is used by default."""
        return next((each for each in self.entry.drafters if each.runs), None)

    @cached_property
    def shape(self) -> NamedShape | None:
        """The sizes of its matrices, if they are known."""
        return named_shapes().get(self.alias)

    @cached_property
    def bits(self) -> int:
        """Bits of a weight in the copy that the alias loads."""
        found = BITS.search(self.entry.model)
        return int(found[1] or found[2]) if found else HALF_PRECISION

    @cached_property
    def folder(self) -> Path | None:
        """Its folder, if it is on the disk and complete."""
        return TINY_FOLDER if self.is_toy else download.cached_folder(self.entry.model)

    @cached_property
    def drafter_folder(self) -> Path | None:
        """Its drafter's folder, if it is on the disk and complete."""
        if self.drafter is None:
            return None
        if embedded := registry.EMBEDDED.get(self.drafter.repo):
            return TINY_FOLDER / embedded
        return download.cached_folder(self.drafter.repo)

    @cached_property
    def weights(self) -> int | None:
        """Bytes of the target's weights; None if not known."""
        if self.folder:
            return weight_bytes(self.folder)
        if self.shape:
            return self.shape.bytes(self.bits, None, 2)[0]
        named = BILLIONS.search(self.entry.name)
        return (
            int(float(named[1]) * 1e9 * (self.bits + GROUP_BITS) / 8) if named else None
        )

    @cached_property
    def drafter_weights(self) -> int | None:
        """Bytes of the drafter's weights; None if not known."""
        if self.drafter_folder:
            return weight_bytes(self.drafter_folder)
        return self.shape.bytes(None, None, 2)[1] if self.shape else None

    @cached_property
    def context_bytes(self) -> int | None:
        """Bytes of the KV cache of CONTEXT tokens; None if not known."""
        if not self.shape:
            return None
        sizes = self.shape.target
        row = 2 * sizes.num_key_value_heads * sizes.head_dim * BYTES_PER_VALUE
        return row * sizes.num_hidden_layers * CONTEXT

    @property
    def download_size(self) -> str:
        """What is fetched, in words."""
        return sum_size(self.weights, self.drafter_weights)

    @property
    def memory(self) -> str:
        """The memory that is needed, in words."""
        return sum_size(self.weights, self.drafter_weights, self.context_bytes)

    @property
    def least_memory(self) -> int | None:
        """Bytes of what is known of the memory that is needed."""
        if self.weights is None:
            return None
        return self.weights + (self.drafter_weights or 0) + (self.context_bytes or 0)

    @property
    def fits(self) -> bool | None:
        """Whether it fits into this machine's memory; None if not known."""
        least = self.least_memory
        return None if least is None else least <= device.memory_bytes()

    @property
    def here(self) -> str:
        """What is downloaded already, in words."""
        if self.is_toy:
            return "built in"
        names = {"model": self.folder, "drafter": self.drafter_folder}
        return " and ".join(name for name, folder in names.items() if folder)


def known_models() -> list[KnownModel]:
    """All targets of the registry, in its order."""
    return [KnownModel(entry) for entry in registry.targets()]


def sum_size(*parts: int | None) -> str:
    """A sum of bytes in words, with + if a part is not known."""
    if parts[0] is None:
        return "not known"
    more = "+" if None in parts else ""
    return format_size(sum(part or 0 for part in parts)) + more


def show(alias: str | None = None, downloaded: bool = False) -> None:
    """Print the known models, or the drafters of one.

    Args:
        alias: The model whose drafters are printed.
        downloaded: Print only those with files in the cache.
    """
    if alias is not None:
        show_drafters(alias)
        return
    models = known_models()
    if downloaded:
        models = [each for each in models if each.here and not each.is_toy]
        if not models:
            folder = download.free_bytes()[1]
            print_line(f"Nothing is downloaded: no known model is in {folder}.")
            return
    table = plain_table("alias", "download", "memory", "fits here", "already here")
    for column in table.columns[1:3]:
        column.justify = "right"
    fits = {True: "yes", False: "no", None: "not known"}
    for each in models:
        sizes = ("", "") if each.is_toy else (each.download_size, each.memory)
        table.add_row(each.alias, *sizes, fits[each.fits], each.here)
    print_table(table)
    memory = format_size(device.memory_bytes())
    print_line(CAPTION.format(context=CONTEXT, memory=memory))


def show_drafters(alias: str) -> None:
    """Print a model and its drafters, the one that is used by default first.

    Raises:
        UnknownModelError: There is no such alias.
    """
    repository = registry.resolve(alias)
    found = [each for each in known_models() if each.entry.model == repository]
    if not found:
        raise MissingFilesError(
            f"{alias} is not an alias.", "`dflash-mlx models` lists the aliases."
        )
    model = found[0]
    print(f"{model.alias}: {repository}")
    table = plain_table("drafter", "kind", "trained on", "runs")
    for drafter in model.entry.drafters:
        runs = "yes" if drafter.runs else "not yet"
        if drafter is model.drafter:
            runs = "yes, by default"
        table.add_row(drafter.repo, drafter.kind, drafter.mode, runs)
    print_table(table)


def remove(
    name: str, confirm: Callable[[str], bool], notice: Callable[[str], None]
) -> None:
    """Remove a model and its drafters from the cache, after a question.

    Args:
        name: An alias or a Hub id.
        confirm: Called with the question.
        notice: Called with what was done.

    Raises:
        MissingFilesError: Nothing of it is in the cache.
    """
    repository = registry.resolve(name)
    wanted = {repository}
    for each in known_models():
        if each.entry.model == repository:
            wanted |= {drafter.repo for drafter in each.entry.drafters}
    found = download.cached_repositories(wanted)
    if not found:
        raise MissingFilesError(
            f"Nothing of {name} is downloaded.",
            "`dflash-mlx models --downloaded` lists what is.",
        )
    names = " and ".join(
        f"{each} ({format_size(size)})" for each, size in found.items()
    )
    if not confirm(f"Remove {names}?"):
        notice("Nothing was removed.")
        return
    freed = download.remove_repositories(set(found))
    notice(f"Removed {names}: {format_size(freed)} freed.")


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


def plain_table(first: str, *others: str) -> Table:
    """A table without lines, whose first column is never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True, min_width=len(first), overflow="fold")
    for name in others:
        table.add_column(name, overflow="fold")
    return table


def print_line(text: str) -> None:
    """Print a sentence; a terminal's rows end between two words."""
    console = Console(highlight=False, markup=False)
    console.print(text, soft_wrap=not console.is_terminal)


def print_table(table: Table) -> None:
    """Print a table: wrapped on a terminal, with unbroken names into a pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=200, highlight=False)
    console.print(table)
