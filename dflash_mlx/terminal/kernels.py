"""`kernels`: which Metal kernels run here, why, and whether they are right."""

from __future__ import annotations

import mlx.core as mx
from rich.table import Table

from ..device import describe
from ..errors import OptionError, UnsupportedError
from ..loading import check_options, load
from ..metal.check import Finding, check
from ..metal.dispatch import machine
from ..metal.verdicts import Verdicts, default_file
from ..tuning.kernels import install_kernels
from . import download
from .answer_request import note
from .models import put


def show() -> None:
    """Print this machine's verdicts."""
    require_metal()
    verdicts = Verdicts(machine(), default_file()).all()
    if not verdicts:
        print(
            "Nothing is measured on this machine yet; "
            "`dflash-mlx kernels --model NAME` does it."
        )
        return
    table = Table("calls", "run by", "why", "microseconds")
    for about, verdict in sorted(verdicts.items()):
        times = ", ".join(f"{n} {us:g}" for n, us in verdict.microseconds.items())
        table.add_row(about.partition(" [")[0], verdict.choice, verdict.why, times)
    table.caption = f"{machine()}, {default_file()}"
    put(table)


def measure(
    model: str,
    draft: str | None = None,
    *,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Measure a pair's shapes anew, and print all verdicts."""
    require_metal()
    check_options(quantize, draft_quantize)
    download.fetch(model, draft, notice=note)
    pair, _ = load(
        model,
        draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels="off",
    )
    install_kernels(pair, "auto", note, again=True)
    show()


def clear() -> None:
    """Forget this machine's verdicts."""
    require_metal()
    gone = Verdicts(machine(), default_file()).clear()
    print(f"Forgot {gone} verdicts.")


def report() -> bool:
    """Check every kernel on this machine; print what can be pasted into an issue.

    Returns:
        Whether all is right.
    """
    require_metal()
    told = describe()
    print(f"### Kernels on {machine()}")
    print(", ".join(f"{name} {value}" for name, value in told.items()))
    print("\n| kernel | question | cases | answer |\n|---|---|--:|---|")
    right = True
    for finding in check():
        right = right and finding.right
        print(row(finding), flush=True)
    print(f"\n{'All is right.' if right else 'SOMETHING IS WRONG.'}")
    return right


def row(finding: Finding) -> str:
    """A line of the report."""
    cells = (finding.kernel, finding.question, finding.cases, finding.answer)
    return f"| {' | '.join(map(str, cells))} |"


def require_one(model: str | None, check: bool, clear: bool, of_model: object) -> None:
    """Raise OptionError where options of `kernels` do not go together."""
    if bool(model) + check + clear > 1:
        raise OptionError(
            "--model, --check and --clear exclude each other.", "Drop two."
        )
    if of_model and not model:
        raise OptionError("These options need --model.", "Name the model to measure.")


def require_metal() -> None:
    """Raise UnsupportedError where there is no Metal GPU."""
    if not mx.metal.is_available():
        raise UnsupportedError(
            "There is no Metal GPU here, so no kernel runs.",
            "Everything else works: MLX's own operations take their place.",
        )
