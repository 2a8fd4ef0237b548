"""`inspect`: what a drafter's checkpoint is, and how it would best be read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_reduce
from rich.console import Console
from rich.table import Table

from ..bench.probe import (
    PROMPTS,
    Trial,
    choice,
    probe,
)
from ..hub.find import folder_of_drafter
from ..hub.registry import targets
from ..loading import check_options, load
from ..models.drafters import empty, make, packagings
from ..models.drafters.checkpoint import compare
from ..models.drafters.config import DFlashConfig
from ..models.drafters.dflash import DFlash
from . import download
from .answer_request import note


def run(
    name: str,
    *,
    model: str | None,
    quantize: int | None,
    trust_remote_code: bool,
    prompts: list[str] | None,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Describe the drafter `name`; with a target at hand, probe its readings.

    Args:
        name: Folder, Hub id, or the alias of its target.
        model: The target to probe with; None does not probe.
        quantize, trust_remote_code: Of the target.
        prompts, max_tokens: Of the probe.
        as_json: One JSON object on stdout.
    """
    folder = folder_of_drafter(name)
    reading = packagings.read(folder)
    drafter, weights = empty(folder)
    compare(drafter, weights, folder)
    bits, whole = drafter.bits, make(drafter.config)
    packed = [f"linear layers are packed to {bits} bits"] if bits else []
    report = {
        "folder": str(folder),
        "packaging": reading.packaging,
        "notes": [*reading.notes, *packed],
        "fits": fitting(reading.config),
        "parameters": sum(a.size for _, a in tree_flatten(whole.parameters())),
        "bytes": {str(n): size(whole, n) for n in (4, 8, 16)},
        "config": drafter.config.to_json(),
    }
    if not as_json:
        describe(report)
    if model is not None:
        trials = probed(
            folder, model, quantize, trust_remote_code, prompts, max_tokens, as_json
        )
        report["probe"] = [asdict(trial) for trial in trials]
        report["choice"] = choice(trials).name
        if not as_json:
            tell(trials, name)
    if as_json:
        print(json.dumps(report))


def probed(folder, model, quantize, trust, prompts, tokens, quiet) -> list[Trial]:
    """The probe's trials, each told on stderr as it is done."""

    def progress(trial):
        if not quiet:
            note(f"{trial.tokens_per_round:.2f} tokens per round {trial.name}")

    check_options(quantize)
    download.fetch(model, "none", notice=note)
    options = {"quantize": quantize, "trust_remote_code": trust, "kernels": "off"}
    target, tokenizer = load(model, "none", **options)
    return probe(folder, target, tokenizer, prompts or PROMPTS, tokens, progress)


def fitting(config: DFlashConfig) -> list[str]:
    """Known targets with the numbers that a drafter asks for."""
    hidden = config.target_hidden_size or config.hidden_size
    wanted = hidden, config.num_target_layers, config.vocab_size
    return [e.alias for e in targets() if e.numbers and e.numbers[1:] == wanted]


def size(drafter: DFlash, bits: int) -> int:
    """Bytes of the weights with linear layers in so many bits; groups of 64 share a
    scale and a bias of 16 bits each."""
    linear = sum(
        module.weight.size
        for module in drafter.modules()
        if isinstance(module, nn.Linear)
    )
    rest = tree_reduce(lambda n, a: n + a.size, drafter.parameters(), 0) - linear
    packed = linear * bits // 8 + (linear // 64 * 4 if bits < 16 else 0)
    return packed + rest * 2


def describe(report: dict) -> None:
    """Print what a checkpoint is."""
    config = report["config"]
    print(f"{report['folder']}: {report['packaging']}")
    print(
        f"  {config['num_hidden_layers']} layers of width {config['hidden_size']}, "
        f"{report['parameters'] / 1e6:.1f} million parameters: "
        + ", ".join(f"{n / 1e6:.1f} MB at {b} bits" for b, n in report["bytes"].items())
    )
    depth = config.get("num_target_layers", "?")
    fits = ", ".join(report["fits"]) or "no alias of `dflash-mlx models`"
    print(
        f"  for a target of {depth} layers, width "
        f"{config.get('target_hidden_size', config['hidden_size'])}, vocabulary "
        f"{config['vocab_size']}: {fits}"
    )
    for line in report["notes"]:
        print(f"  {line}")


def tell(trials: list[Trial], name: str) -> None:
    """Print the probe's table and its verdict."""
    best = choice(trials)
    table = Table("reading", "tokens per round", "first draft kept", "")
    for trial in trials:
        chosen = "best" if trial is best else ""
        kept = f"{trial.first:.2f}"
        table.add_row(trial.name, f"{trial.tokens_per_round:.2f}", kept, chosen)
    Console(width=100).print(table)
    if best is trials[0]:
        print("The packaging's own reading is the right one.")
        return
    print(f"It drafts best otherwise than its packaging says: {best.name}.")
    out = f"{Path(name).name}-corrected"
    print(f"Correct it: dflash-mlx convert {name} --out {out} {best.options}")
