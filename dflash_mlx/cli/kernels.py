"""What runs here, and whether it is right: `kernels`, `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import options as o
from ..terminal import shell_completion
from .app import command


@command
def kernels(
    model: Annotated[
        str | None,
        o.option(
            "--model",
            "Measure this model's shapes anew.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    draft: o.Draft = None,
    quantize: o.Quantize = None,
    draft_quantize: o.DraftQuantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check all on this machine: a report.")
    ] = False,
    clear: Annotated[
        bool, typer.Option("--clear", help="Forget the verdicts.")
    ] = False,
):
    """Show which Metal kernels run here and why; measure or check them.

    --check exits with 1 when a kernel is wrong on this machine.

    dflash-mlx kernels --check

    dflash-mlx kernels --model qwen3-8b
    """
    from ..terminal import kernels as terminal

    terminal.require_one(
        model, check, clear, draft or quantize or draft_quantize or trust_remote_code
    )
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
def verify(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; some are built in.")
    ] = None,
    model: o.Model = "tiny",
    draft: o.Draft = None,
    quantize: o.Quantize = None,
    draft_quantize: o.DraftQuantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kernels: o.Kernels = "auto",
    exact: o.Exact = False,
    block_size: o.BlockSize = None,
    max_tokens: o.MaxTokens = 256,
    json: o.Json = False,
):
    """Compare drafting with plain decoding here: the first difference, and its margin.

    Exits with 1 when an output differs by more than a near tie.

    dflash-mlx verify --model qwen3-8b --exact

    dflash-mlx verify "Write a haiku." "What is 12 + 34?" --max-tokens 64
    """
    from ..bench.verify import run
    from ..loading import check_options
    from ..terminal import download
    from ..terminal.answer_request import note
    from ..terminal.screen import progress

    mode = o.kernel_mode(kernels, exact)
    check_options(quantize, draft_quantize, kernels=mode)
    download.fetch(model, draft, notice=note, shown=progress.wanted(as_json=json))
    run(
        prompts,
        model=model,
        draft=draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels=mode,
        block_size=block_size,
        max_tokens=max_tokens,
        as_json=json,
        notice=note,
    )
