"""`kernels`, `verify` and `report`: what computes on this machine, and whether it is
right."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import OptionError
from ..terminal import shell_completion
from ..terminal.options import (
    BlockSize,
    Draft,
    DraftQuantize,
    Exact,
    Json,
    Kernels,
    MaxTokens,
    Model,
    Quantize,
    TrustRemoteCode,
    kernel_mode,
    option,
)
from .app import command


@command
def kernels(
    model: Annotated[
        str | None,
        option(
            "--model",
            "Measure the kernels again for this model: an alias, a Hub id or a folder.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    draft: Draft = None,
    quantize: Quantize = None,
    draft_quantize: DraftQuantize = None,
    trust_remote_code: TrustRemoteCode = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check every kernel, and print a report."),
    ] = False,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete this machine's measurements.")
    ] = False,
):
    """Show which Metal kernels run on this machine and why; measure or check them.

    --check exits with 1 if a kernel is wrong on this machine.

    dflash-mlx kernels --check

    dflash-mlx kernels --model qwen3-8b
    """
    from ..terminal import kernels as terminal

    load_options = any((draft, quantize, draft_quantize, trust_remote_code))
    terminal.check_combination(model, check, clear, load_options)
    if model:
        terminal.measure(
            model,
            draft,
            quantize=quantize,
            draft_quantize=draft_quantize,
            trust_remote_code=trust_remote_code,
        )
    elif check:
        if not terminal.report():
            raise typer.Exit(1)
    elif clear:
        terminal.clear()
    else:
        terminal.show()


@command
def report(
    model: Annotated[
        str | None,
        option(
            "--model",
            "Report on this model too: an alias, a Hub id or a folder. Default: only "
            "the embedded pair.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    draft: Draft = None,
    quantize: Quantize = None,
    draft_quantize: DraftQuantize = None,
    trust_remote_code: TrustRemoteCode = False,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Seconds for the benchmark.")
    ] = 120.0,
):
    """Print one block of Markdown about this machine, to paste into an issue.

    It holds what `doctor`, `kernels --check`, `verify` and `verify --exact` find, the
    cost of a pass by rows, and a benchmark. Names of users and folders are removed.
    Ctrl-C keeps what was printed. Exits with 1 if a part failed.

    dflash-mlx report

    dflash-mlx report --model qwen3-8b
    """
    from ..loading import check_options
    from ..terminal.report import ReportOptions, run

    check_options(quantize, draft_quantize)
    if draft and not model:
        raise OptionError("--draft needs --model.", "Name the model of the drafter.")
    options = ReportOptions(
        model, draft, quantize, draft_quantize, trust_remote_code, seconds
    )
    if not run(options):
        raise typer.Exit(1)


@command
def verify(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts to compare on. Default: built-in prompts."),
    ] = None,
    model: Model = "tiny",
    draft: Draft = None,
    quantize: Quantize = None,
    draft_quantize: DraftQuantize = None,
    trust_remote_code: TrustRemoteCode = False,
    kernels: Kernels = "auto",
    exact: Exact = False,
    block_size: BlockSize = None,
    max_tokens: MaxTokens = 256,
    json: Json = False,
):
    """Compare answers with drafts and without, and print the first difference.

    Exits with 1 if an answer differs by more than a near tie of two logits, and with
    --exact if a single bit of the logits does.

    dflash-mlx verify --model qwen3-8b --exact

    dflash-mlx verify "Write a haiku." "What is 12 + 34?" --max-tokens 64
    """
    from ..bench.verify import run
    from ..loading import check_options, load
    from ..terminal import download
    from ..terminal.screen import progress
    from ..terminal.streams import print_notice

    mode = kernel_mode(kernels, exact)
    check_options(quantize, draft_quantize, kernels=mode)
    shown = progress.wanted(as_json=json)
    download.fetch(model, draft, notice=print_notice, show_progress=shown)
    with progress.spinner(f"Loading {model}", shown) as status:
        pair, tokenizer = load(
            model,
            draft,
            quantize=quantize,
            draft_quantize=draft_quantize,
            trust_remote_code=trust_remote_code,
            kernels=mode,
            notice=print_notice,
            status=status,
        )
    run(
        pair,
        tokenizer,
        prompts,
        kernels=mode,
        block_size=block_size,
        max_tokens=max_tokens,
        as_json=json,
    )
