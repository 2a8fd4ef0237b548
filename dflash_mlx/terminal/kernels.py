"""`kernels`: which Metal kernels run here, why, and whether they are correct."""

from __future__ import annotations

import mlx.core as mx
from rich.table import Table

from ..device import describe
from ..errors import OptionError, UnsupportedError
from ..loading import check_options, load
from ..metal.check import Finding, check
from ..metal.verdicts import Verdicts, machine
from ..tuning.kernels import install_kernels
from . import download
from .models import print_table
from .screen import progress
from .streams import print_notice


def show() -> None:
    """Print this machine's verdicts."""
    require_metal()
    stored = Verdicts.of_this_machine(print_notice)
    verdicts = stored.all()
    if not verdicts:
        print(
            "No kernel was measured on this machine yet. To measure: "
            "dflash-mlx kernels --model NAME"
        )
        return
    table = Table("operation", "kernel", "why", "microseconds")
    for operation, verdict in sorted(verdicts.items()):
        times = ", ".join(f"{n} {us:g}" for n, us in verdict.microseconds.items())
        name = operation.partition(" [")[0]
        table.add_row(name, verdict.choice, verdict.why, times)
    table.caption = f"{stored.store.machine}, {stored.store.file}"
    print_table(table)


def measure(
    model: str,
    draft: str | None = None,
    *,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Measure the kernels again on a pair's shapes, and print all verdicts."""
    require_metal()
    check_options(quantize, draft_quantize)
    download.fetch(model, draft, notice=print_notice)
    pair, _ = load(
        model,
        draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels="off",
        calibration=False,
    )
    with progress.spinner("Measuring kernels", progress.wanted()) as status:
        install_kernels(pair, "auto", print_notice, again=True, status=status)
    show()


def clear() -> None:
    """Delete this machine's verdicts."""
    require_metal()
    count = Verdicts.of_this_machine(print_notice).clear()
    print(f"Deleted {count} verdicts.")


def report() -> bool:
    """Check every kernel on this machine, and print a report for an issue.

    Returns:
        Whether every kernel is correct.
    """
    require_metal()
    print(f"### Kernels on {machine()}")
    print(", ".join(f"{name} {value}" for name, value in describe().items()))
    print("\n| kernel | question | cases | answer |\n|---|---|--:|---|")
    right = True
    for finding in check():
        right = right and finding.right
        print(row(finding), flush=True)
    print(f"\n{'Every kernel is correct.' if right else 'A KERNEL IS WRONG.'}")
    return right


def row(finding: Finding) -> str:
    """A row of the report."""
    return cells(finding.kernel, finding.question, finding.cases, finding.answer)


def cells(*values: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, values))} |"


def check_combination(
    model: str | None, check: bool, clear: bool, load_options: bool
) -> None:
    """Raise OptionError for options of `kernels` that exclude each other.

    Args:
        model, check, clear: The options.
        load_options: True if an option is given that needs --model.
    """
    if bool(model) + check + clear > 1:
        raise OptionError(
            "--model, --check and --clear exclude each other.", "Keep one."
        )
    if load_options and not model:
        raise OptionError(
            "--draft, --quantize, --draft-quantize and --trust-remote-code need "
            "--model.",
            "Name the model to measure.",
        )


def require_metal() -> None:
    """Raise UnsupportedError where there is no Metal GPU."""
    if not mx.metal.is_available():
        raise UnsupportedError(
            "There is no Metal GPU here, so no kernel runs.",
            "Everything else works, with MLX's own operations.",
        )
