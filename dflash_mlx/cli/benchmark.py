"""`benchmark`: measure plain decoding and DFlash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from ..bench.settings import Settings
from ..terminal.benchmark_options import CONTENDERS, BenchmarkOptions
from ..terminal.options import OUTPUT, Exact, kernel_mode, option
from .app import command
from .fields import Panel

MEASUREMENT = Panel(
    "Measurement",
    names={
        "temps": "--temps --temp",
        "max_tokens": "--max-tokens -m",
        "endless": "--ignore-eos",
        "template": "--chat-template-config",
    },
)


@command
def benchmark(
    options: BenchmarkOptions,
    settings: Annotated[Settings, MEASUREMENT],
    exact: Exact = False,
    api_key: Annotated[
        str | None, option("--api-key", "API key of the server.", CONTENDERS)
    ] = None,
    plot: Annotated[
        Path | None,
        option("--plot", "Draw speed and acceptance into this image file.", OUTPUT),
    ] = None,
    json: Annotated[
        bool, option("--json", "Print one JSON line instead of the table.", OUTPUT)
    ] = False,
    jsonl: Annotated[
        Path | None, option("--jsonl", "Append the JSON line to this file.", OUTPUT)
    ] = None,
):
    """Measure plain decoding and DFlash in turn, on many kinds of prompts.

    dflash-mlx benchmark --model qwen3-8b --plot speed.png

    dflash-mlx benchmark --model qwen3-8b --suite gsm8k,humaneval --samples 16

    dflash-mlx benchmark --classes chat,code --block-sizes auto,2,4,8 --mlx-lm

    dflash-mlx benchmark --base-url http://localhost:8000 --model qwen3-8b --no-local
    """
    from ..terminal import benchmark as terminal

    options = replace(options, kernels=kernel_mode(options.kernels, exact))
    terminal.run(
        options, settings, api_key=api_key, plot_file=plot, as_json=json, jsonl=jsonl
    )
