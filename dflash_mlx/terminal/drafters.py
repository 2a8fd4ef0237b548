"""`inspect` and `convert`: what a drafter's checkpoint holds, and a copy in our format.

Owns the printed description. Does not know the packagings, how a reading is measured
(bench/probe.py), or how a drafter is written (convert.py).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_reduce
from mlx_lm.tokenizer_utils import TokenizerWrapper
from rich.console import Console
from rich.table import Table

from ..bench import probe
from ..bench.probe import PROMPTS, Trial
from ..convert import Changes, convert
from ..hub.find import folder_of_drafter
from ..hub.registry import targets
from ..loading import check_options, check_pair, load
from ..models.drafters import build_drafter, open_folder, packagings
from ..models.drafters.config import DFlashConfig
from ..models.drafters.dflash import DFlash
from ..models.drafters.weights import check_weights
from ..pair import Pair
from . import download
from .options import ProbeOptions
from .screen import progress
from .streams import print_notice

# Most readings of the mask inside a block that are measured beside the others.
MASKS = 2


def run_inspect(name: str, options: ProbeOptions, as_json: bool = False) -> None:
    """Describe a drafter, and with a target measure how its config is best read.

    Args:
        name: Folder, Hub id, or the alias of its target.
        options: The target to measure with, and the prompts.
        as_json: Print one JSON object on stdout.
    """
    folder = folder_of_drafter(name)
    report = describe(folder)
    if not as_json:
        print_report(report)
    if options.model is not None:
        trials = measure_readings(folder, options, quiet=as_json)
        report["probe"] = [asdict(trial) for trial in trials]
        report["choice"] = probe.best_trial(trials).name
        if not as_json:
            print_trials(trials, name)
    if as_json:
        print(json.dumps(report))


def run_convert(name: str, out: Path, changes: Changes, options: ProbeOptions) -> None:
    """Write a drafter to a new folder, and with a target measure before and after.

    Args:
        name: Folder, Hub id, or the alias of its target.
        out: The new folder.
        changes: What is changed on the way.
        options: The target to measure tokens per round with, and the prompts.
    """
    folder = folder_of_drafter(name)
    measure = None
    if options.model is not None:
        target, tokenizer = load_target(
            options.model, options.quantize, options.trust_remote_code
        )

        def measure(drafter):
            check_pair(target.target.config, drafter.config)
            pair = Pair.of(target.model, drafter, target.target.config)
            prompts = options.prompts or PROMPTS
            stats = probe.measure(pair, tokenizer, prompts, options.max_tokens)
            kept = " ".join(f"{share:.2f}" for share in stats.acceptance)
            print_notice(
                f"{stats.tokens_per_round:.2f} tokens per round, acceptance by "
                f"position {kept}"
            )

    convert(folder, out, changes, name, measure)
    size = sum(file.stat().st_size for file in out.iterdir())
    print_notice(f"Wrote {out}, {size / 1e6:.1f} MB. Use it with --draft {out}.")


def load_target(
    model: str, quantize: int | None, trust_remote_code: bool
) -> tuple[Pair, TokenizerWrapper]:
    """Load a target without a drafter, on stock operations, which have gradients.

    Raises:
        DFlashError: As in loading.load.
    """
    check_options(quantize)
    download.fetch(model, "none", notice=print_notice)
    return load(
        model,
        "none",
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        kernels="off",
    )


def measure_readings(folder: Path, options: ProbeOptions, quiet: bool) -> list[Trial]:
    """Measure the drafter under each plausible reading of its config.

    Args:
        folder: The drafter's.
        options: The target, and the prompts.
        quiet: Show no progress on stderr.
    """

    target, tokenizer = load_target(
        options.model, options.quantize, options.trust_remote_code
    )
    prompts = options.prompts or PROMPTS
    config = packagings.read(folder).config
    # Each mask inside the block is another reading.
    most = len(probe.readings(config, target.target.num_layers)) + MASKS
    start, done = time.monotonic(), 0
    shown = not quiet and sys.stderr.isatty()
    if not quiet and not shown:
        print_notice(f"Measuring at most {most} readings of {len(prompts)} prompts.")
    with progress.spinner(f"Measuring at most {most} readings", shown) as update:

        def report(trial):
            nonlocal done
            done += 1
            left = (time.monotonic() - start) / done * (most - done)
            update(f"{done} of at most {most} readings, up to {left:.0f} s left")

        return probe.probe(
            folder, target, tokenizer, prompts, options.max_tokens, report
        )


def describe(folder: Path) -> dict[str, Any]:
    """The description of a checkpoint, under names that stay the same.

    Raises:
        DFlashError: The checkpoint is incomplete, or not of a known packaging.
    """
    reading = packagings.read(folder)
    drafter, weights = open_folder(folder)
    check_weights(drafter, weights, folder)
    bits, unpacked = drafter.bits, build_drafter(drafter.config)
    packed = [f"linear layers are packed to {bits} bits"] if bits else []
    return {
        "folder": str(folder),
        "packaging": reading.packaging,
        "notes": [*reading.notes, *packed],
        "fits": fitting_targets(reading.config),
        "parameters": sum(a.size for _, a in tree_flatten(unpacked.parameters())),
        "bytes": {str(n): size_in_bytes(unpacked, n) for n in (4, 8, 16)},
        "config": drafter.config.to_json(),
    }


def fitting_targets(config: DFlashConfig) -> list[str]:
    """Aliases of the known targets with the sizes that a drafter was made for."""
    hidden = config.target_hidden_size or config.hidden_size
    wanted = hidden, config.num_target_layers, config.vocab_size
    return [e.alias for e in targets() if e.numbers and e.numbers[1:] == wanted]


def size_in_bytes(drafter: DFlash, bits: int) -> int:
    """Bytes of a drafter with its linear layers quantized, the rest in 16 bits.

    Groups of 64 weights share a scale and a bias of 16 bits each.
    """
    linear = sum(
        module.weight.size
        for module in drafter.modules()
        if isinstance(module, nn.Linear)
    )
    rest = tree_reduce(lambda n, a: n + a.size, drafter.parameters(), 0) - linear
    packed = linear * bits // 8 + (linear // 64 * 4 if bits < 16 else 0)
    return packed + rest * 2


def print_report(report: dict[str, Any]) -> None:
    """Print the description of a checkpoint."""
    config = report["config"]
    print(f"{report['folder']}: {report['packaging']}")
    print(
        f"  {config['num_hidden_layers']} layers of width {config['hidden_size']}, "
        f"{report['parameters'] / 1e6:.1f} million parameters: "
        + ", ".join(f"{n / 1e6:.1f} MB at {b} bits" for b, n in report["bytes"].items())
    )
    layers = config.get("num_target_layers", "?")
    width = config.get("target_hidden_size", config["hidden_size"])
    fits = ", ".join(report["fits"]) or "none that `dflash-mlx models` lists"
    print(
        f"  for a target with {layers} layers of width {width} and a vocabulary of "
        f"{config['vocab_size']}: {fits}"
    )
    for line in report["notes"]:
        print(f"  {line}")


def print_trials(trials: list[Trial], name: str) -> None:
    """Print a row for each reading, then which is right and how to write it."""
    best = probe.best_trial(trials)
    table = Table("reading", "tokens per round", "first draft kept", "")
    for trial in trials:
        mark = "best" if trial is best else ""
        kept = f"{trial.first:.2f}"
        table.add_row(trial.name, f"{trial.tokens_per_round:.2f}", kept, mark)
    Console(width=100).print(table)
    if best is trials[0]:
        print("The reading of the packaging is the right one.")
        return
    print(f"The drafter drafts better under another reading: {best.name}.")
    out = f"{Path(name).name}-corrected"
    print(f"To correct it: dflash-mlx convert {name} --out {out} {best.options}")
