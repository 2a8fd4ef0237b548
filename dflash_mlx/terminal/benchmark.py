"""`benchmark`: what the command asks for, run, and told: a table or a JSON line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from .. import device
from ..bench import plot, results
from ..bench.benchmark import (
    Progress,
    Run,
    Settings,
    contenders_of,
    measure,
)
from ..bench.data_sets import published
from ..bench.pairs import UNTRAINED, open_pair
from ..bench.remote import Server
from ..bench.results import Row
from ..bench.suites import BUILTIN, Prompt, builtin
from ..errors import OptionError
from ..hub.find import folder_of_target, read_config
from ..loading import read_tokenizer
from ..types import require
from . import download
from .answer_request import note
from .benchmark_table import show
from .options import names, numbers


@dataclass(frozen=True)
class Measure:
    """What to measure: the command's options that are no Settings."""

    model: str = "tiny"
    draft: str | None = None
    shape: str | None = None
    quantize: int | None = None
    draft_quantize: int | None = None
    trust_remote_code: bool = False
    kernels: str = "auto"
    suites: tuple[str, ...] = (BUILTIN,)
    classes: tuple[str, ...] = ()
    samples: int = 3
    context: int = 2048
    block_sizes: tuple[int | None, ...] = (None,)
    mlx_lm: bool = False
    base_url: str | None = None
    api_model: str | None = None
    local: bool = True
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self):
        require(self.samples >= 1, "--samples", "1 or more", self.samples)
        require(self.context >= 1, "--context", "1 or more", self.context)
        for size in self.block_sizes:
            require(size is None or size >= 2, "--block-sizes", "2 or more", size)
        if not self.local and not self.base_url:
            raise OptionError("--no-local leaves nobody to ask.", "Give a --base-url.")
        own = self.draft not in (None, UNTRAINED)
        for one, other, clash in (
            ("--shape", "--model", self.shape is not None and self.model != "tiny"),
            ("--shape", "a --draft of one's own", self.shape is not None and own),
            ("--no-local", "--shape", not self.local and self.shape is not None),
            ("--no-local", "--mlx-lm", not self.local and self.mlx_lm),
        ):
            if clash:
                raise OptionError(f"{one} and {other} exclude each other.", "Drop one.")
        if self.classes and BUILTIN not in self.suites:
            raise OptionError(
                "--classes are those of the suite builtin.", "Add --suite builtin."
            )


def sizes(text: str) -> tuple[int | None, ...]:
    """--block-sizes, in which `auto` is the engine's own choice (None).

    Raises:
        OptionError: A part is neither that nor a number.
    """
    return tuple(
        None if part == "auto" else numbers(part, "--block-sizes")[0]
        for part in names([text])
    )


def run(
    asked: Measure,
    *,
    api_key: str | None = None,
    picture: Path | None = None,
    as_json: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Measure, and print the table or one JSON line.

    Args:
        asked: What, and how.
        api_key: Of the server; it is shown nowhere.
        picture: A file for a plot.
        as_json: One JSON line on stdout in place of the table.
        jsonl: A file to which that line is appended as well.
    """
    before = device.strain()
    check_files(picture, jsonl)
    # What may fail is tried before models are loaded, and that before measuring.
    fetched = {s: published(s, asked.samples) for s in asked.suites if s != BUILTIN}
    pair, tokenizer = opened(asked)
    prompts = prompts_of(asked, tokenizer, fetched)
    server = None
    if asked.base_url:
        server = Server(asked.base_url, tokenizer, api_key, asked.api_model)
    rivals = contenders_of(pair, tokenizer, asked.block_sizes, asked.mlx_lm, server)
    with progress() as tell:
        runs = measure(rivals, prompts, asked.settings, tokenizer, pair, tell)
    rows = results.rows_of(runs)
    found = report(asked, runs, rows, before)
    found["server"] = {"url": server.url, "model": server.model} if server else None
    line = json.dumps(found)
    if jsonl:
        with jsonl.open("a") as file:
            file.write(line + "\n")
    if picture:
        plot.draw(rows, title(asked), picture)
    if as_json:
        print(line)
    else:
        show(rows, found["warnings"], title(asked))


def report(
    asked: Measure,
    runs: Sequence[Run],
    rows: Sequence[Row],
    before: dict[str, float],
) -> dict[str, Any]:
    """Everything that was asked, found, and may have spoilt it, for machines."""
    after, change = device.strain(), results.drift(runs)
    warnings = device.complaints(before, after) + results.drift_warning(change)
    return {
        "machine": device.describe(),
        "strain": {"before": before, "after": after, "drift_of_plain": change},
        "settings": asdict(asked),
        "warnings": warnings,
        "rows": [asdict(row) for row in rows],
        "prompts": [per_prompt(run) for run in runs],
    }


def check_files(picture: Path | None, jsonl: Path | None) -> None:
    """Raise what writing would, before anything is measured."""
    if picture:
        plot.check(picture)
    if jsonl and not jsonl.parent.is_dir():
        raise OptionError(f"--jsonl: there is no folder {jsonl.parent}.")


def opened(asked: Measure):
    """The pair, or None for a server alone, and the tokenizer."""
    if asked.local:
        if asked.shape is None:
            draft = None if asked.draft == UNTRAINED else asked.draft
            download.fetch(asked.model, draft, notice=note)
        return open_pair(
            asked.model,
            asked.draft,
            shape=asked.shape,
            quantize=asked.quantize,
            draft_quantize=asked.draft_quantize,
            trust_remote_code=asked.trust_remote_code,
            kernels=asked.kernels,
            seed=asked.settings.seed,
            notice=note,
        )
    folder = folder_of_target(asked.model, None)
    return None, read_tokenizer(folder, read_config(folder), asked.trust_remote_code)


def prompts_of(
    asked: Measure, tokenizer, found: dict[str, list[Prompt]]
) -> list[Prompt]:
    """All prompts, in the order of the suites."""
    own = []
    if BUILTIN in asked.suites:
        own = builtin(
            tokenizer,
            asked.classes,
            context=asked.context,
            samples=asked.samples,
            seed=asked.settings.seed,
        )
    return [
        p for suite in asked.suites for p in (own if suite == BUILTIN else found[suite])
    ]


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on stderr where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def per_prompt(run: Run) -> dict[str, Any]:
    """A contender's answers to one prompt, for machines."""
    return {
        "class": run.prompt.kind,
        "prompt": run.prompt.name,
        "contender": run.contender,
        "temp": run.temp,
        "context": run.context,
        "prompt_tokens": len(run.request.ids),
        "tokens": [answer.count for answer in run.answers],
        "tokens_per_second": [answer.speed for answer in run.answers],
        "time_to_first_token": [answer.first for answer in run.answers],
        "stats": [a.stats.as_dict() if a.stats else None for a in run.answers],
        "first_difference": asdict(run.difference) if run.difference else None,
    }


def title(asked: Measure) -> str:
    """What was measured, on what."""
    told = device.describe()
    what = f"shape {asked.shape}" if asked.shape else asked.model
    if asked.draft:
        what += f", drafter {asked.draft}"
    if not asked.local:
        what = str(asked.base_url)
    return (
        f"{what} on {told['processor']}, {told['device']}, {told['cores']} cores, "
        f"mlx {told['mlx']}, dflash-mlx {told['dflash_mlx']}"
    )
