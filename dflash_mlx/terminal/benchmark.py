"""`benchmark`: load, measure, and print a table or one JSON line.

Owns the JSON line; its names stay the same. Does not know how a contender is measured
(bench/) or how the table looks (benchmark_table.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from .. import device
from ..bench import plot, results
from ..bench.benchmark import (
    Progress,
    Run,
    contenders_of,
    measure,
)
from ..bench.data_sets import load_prompts
from ..bench.pairs import open_pair
from ..bench.remote import Server
from ..bench.results import Row
from ..bench.settings import BUILTIN, UNTRAINED, Settings
from ..bench.suites import Prompt, builtin
from ..errors import OptionError
from ..hub.config import read_config
from ..hub.find import folder_of_target
from ..pair import Pair
from ..target_files import read_tokenizer
from . import download
from .benchmark_options import BenchmarkOptions
from .benchmark_table import print_rows
from .options import check_template_arguments
from .screen import progress
from .streams import print_notice


def run(
    options: BenchmarkOptions,
    settings: Settings,
    *,
    api_key: str | None = None,
    plot_file: Path | None = None,
    as_json: bool = False,
    jsonl: Path | None = None,
) -> None:
    """Measure, and print the table or one JSON line.

    Args:
        options: What is measured.
        settings: How it is measured.
        api_key: Key of the server; never printed.
        plot_file: Image file to draw a plot into.
        as_json: Print one JSON line on stdout instead of the table.
        jsonl: File to append that line to.
    """
    check_template_arguments(settings.template)
    strain = device.pressure()
    check_files(plot_file, jsonl)
    # What can fail early comes first: data sets before models, both before measuring.
    others = [suite for suite in options.suites if suite != BUILTIN]
    fetched = {suite: load_prompts(suite, options.samples) for suite in others}
    pair, tokenizer = load(options, settings)
    prompts = prompts_of(options, tokenizer, fetched, settings.seed)
    server = None
    if options.base_url:
        server = Server(options.base_url, tokenizer, api_key, options.api_model)
    contenders = contenders_of(
        pair, tokenizer, options.block_sizes, options.mlx_lm, server
    )
    with progress_bar() as advance:
        runs = measure(contenders, prompts, settings, tokenizer, pair, advance)
    rows = results.rows_of(runs)
    found = report(options, settings, runs, rows, strain)
    found["server"] = {"url": server.url, "model": server.model} if server else None
    line = json.dumps(found)
    if jsonl:
        with jsonl.open("a") as file:
            file.write(line + "\n")
    if plot_file:
        plot.draw(rows, title(options), plot_file)
    if as_json:
        print(line)
    else:
        print_rows(rows, found["warnings"], title(options))


def check_files(plot_file: Path | None, jsonl: Path | None) -> None:
    """Raise OptionError for files that cannot be written, before measuring."""
    if plot_file:
        plot.check(plot_file)
    if jsonl and not jsonl.parent.is_dir():
        raise OptionError(
            f"There is no folder {jsonl.parent} for --jsonl.", "Create it first."
        )


def load(
    options: BenchmarkOptions, settings: Settings
) -> tuple[Pair | None, TokenizerWrapper]:
    """The pair, or None where only a server is measured, and the tokenizer."""
    if not options.local:
        folder = folder_of_target(options.model, None)
        config = read_config(folder)
        return None, read_tokenizer(folder, config, options.trust_remote_code)
    if options.shape is None:
        draft = None if options.draft == UNTRAINED else options.draft
        download.fetch(options.model, draft, notice=print_notice)
    title = f"Loading {options.shape or options.model}"
    with progress.spinner(title, progress.wanted()) as status:
        return open_pair(
            options.model,
            options.draft,
            shape=options.shape,
            quantize=options.quantize,
            draft_quantize=options.draft_quantize,
            trust_remote_code=options.trust_remote_code,
            kernels=options.kernels,
            seed=settings.seed,
            notice=print_notice,
            status=status,
        )


def prompts_of(
    options: BenchmarkOptions,
    tokenizer: TokenizerWrapper,
    fetched: dict[str, list[Prompt]],
    seed: int,
) -> list[Prompt]:
    """The prompts of all suites, in the order in which the suites were given.

    Args:
        options: The suites and classes.
        tokenizer: The model's.
        fetched: Prompts of the suites that are not built in.
        seed: Of random prompts.
    """
    suites = dict(fetched)
    if BUILTIN in options.suites:
        suites[BUILTIN] = builtin(
            tokenizer,
            options.classes,
            context=options.context,
            samples=options.samples,
            seed=seed,
        )
    return [prompt for suite in options.suites for prompt in suites[suite]]


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def report(
    options: BenchmarkOptions,
    settings: Settings,
    runs: Sequence[Run],
    rows: Sequence[Row],
    strain: dict[str, float],
) -> dict[str, Any]:
    """The settings, the results, and what may have distorted them.

    Args:
        options, settings: What was measured, and how.
        runs: Every contender's answers.
        rows: The rows of the table.
        strain: device.pressure() before measuring.
    """
    after, change = device.pressure(), results.drift(runs)
    warnings = device.pressure_warnings(strain, after) + results.drift_warning(change)
    return {
        "machine": device.describe(),
        "strain": {"before": strain, "after": after, "drift_of_plain": change},
        "settings": asdict(options) | {"settings": asdict(settings)},
        "warnings": warnings,
        "rows": [asdict(row) for row in rows],
        "prompts": [prompt_report(run) for run in runs],
    }


def prompt_report(run: Run) -> dict[str, Any]:
    """A contender's answers to one prompt."""
    return {
        "class": run.prompt.kind,
        "prompt": run.prompt.name,
        "contender": run.contender,
        "temp": run.temp,
        "context": run.context,
        "prompt_tokens": len(run.request.ids),
        "tokens": [answer.count for answer in run.answers],
        "tokens_per_second": [answer.speed for answer in run.answers],
        "time_to_first_token": [answer.first_token for answer in run.answers],
        "stats": [a.stats.as_dict() if a.stats else None for a in run.answers],
        "first_difference": asdict(run.difference) if run.difference else None,
    }


def title(options: BenchmarkOptions) -> str:
    """What was measured, and on which machine."""
    facts = device.describe()
    what = f"shape {options.shape}" if options.shape else options.model
    if options.draft:
        what += f", drafter {options.draft}"
    if not options.local:
        what = str(options.base_url)
    return (
        f"{what} on {facts['processor']}, {facts['device']}, {facts['cores']} cores, "
        f"mlx {facts['mlx']}, dflash-mlx {facts['dflash_mlx']}"
    )
