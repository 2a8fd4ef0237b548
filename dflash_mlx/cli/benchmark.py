"""`benchmark`: plain decoding and DFlash, measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ..terminal import options as o
from ..terminal import shell_completion
from .app import command

WHAT = "What is asked"
HOW = "How it is measured"
RIVALS = "Who answers"


@dataclass(frozen=True)
class Subject:
    """Fields of terminal.benchmark.Measure, each an option, as they are written."""

    model: o.Model = "tiny"
    draft: Annotated[
        str | None,
        o.option(
            "--draft --draft-model",
            "A drafter, or untrained: random weights.",
            autocompletion=shell_completion.drafters,
        ),
    ] = None
    shape: Annotated[
        str | None,
        o.option(
            "--shape",
            "The embedded pair at the size of this model.",
            autocompletion=shell_completion.shapes,
        ),
    ] = None
    quantize: o.Quantize = None
    draft_quantize: o.DraftQuantize = None
    trust_remote_code: o.TrustRemoteCode = False
    kernels: o.Kernels = "auto"
    suites: Annotated[
        list[str] | None,
        o.option(
            "--suite",
            f"{', '.join(shell_completion.SUITES)}.",
            WHAT,
            autocompletion=shell_completion.words(*shell_completion.SUITES),
        ),
    ] = None
    classes: Annotated[
        list[str] | None,
        o.option(
            "--classes",
            "Of the built-in suite: chat,code; all of them.",
            WHAT,
            autocompletion=shell_completion.classes,
        ),
    ] = None
    samples: Annotated[
        int, o.option("--samples", "Prompts at most of a class or suite.", WHAT)
    ] = 3
    context: Annotated[
        int, o.option("--context", "Tokens of the class long-context.", WHAT)
    ] = 2048
    block_sizes: Annotated[
        str, o.option("--block-sizes", "auto,2,4,8: fixed ones beside auto.", RIVALS)
    ] = "auto"
    mlx_lm: Annotated[
        bool, o.option("--mlx-lm", "Stock mlx_lm.stream_generate too.", RIVALS)
    ] = False
    base_url: Annotated[
        str | None, o.option("--base-url", "An OpenAI-compatible server too.", RIVALS)
    ] = None
    api_model: Annotated[
        str | None, o.option("--api-model", "The server's name of the model.", RIVALS)
    ] = None
    local: Annotated[
        bool, o.option("--local/--no-local", "Ask our engine too.", RIVALS)
    ] = True


@dataclass(frozen=True)
class Manner:
    """Fields of bench.benchmark.Settings, each an option, as they are written."""

    contexts: Annotated[
        str, o.option("--contexts", "Pad all prompts to these: 0,8192.", WHAT)
    ] = "0"
    max_tokens: Annotated[
        int, o.option("--max-tokens -m", "Most tokens of an answer.", WHAT)
    ] = 128
    endless: Annotated[
        bool, o.option("--ignore-eos", "Answers of --max-tokens, always.", WHAT)
    ] = False
    template: o.ChatTemplateConfig = None
    temps: Annotated[
        str, o.option("--temps --temp", "Temperatures: 0,0.6,1.", o.SAMPLING)
    ] = "0"
    top_p: o.TopP = 1.0
    top_k: o.TopK = 0
    min_p: o.MinP = 0.0
    seed: Annotated[int, o.option("--seed", "Of all answers.", o.SAMPLING)] = 0
    repeats: Annotated[
        int, o.option("--repeats", "Answers of each to each prompt.", HOW)
    ] = 3
    warmup: Annotated[
        int, o.option("--warmup", "Tokens of answers before these.", HOW)
    ] = 16


@command
def benchmark(
    subject: Subject,
    manner: Manner,
    exact: o.Exact = False,
    api_key: Annotated[
        str | None, o.option("--api-key", "The server's key.", RIVALS)
    ] = None,
    plot: Annotated[
        Path | None, o.option("--plot", "Draw speed and acceptance here.", o.OUTPUT)
    ] = None,
    json: Annotated[
        bool, o.option("--json", "One JSON line in place of the table.", o.OUTPUT)
    ] = False,
    jsonl: Annotated[
        Path | None, o.option("--jsonl", "Append that line to a file too.", o.OUTPUT)
    ] = None,
):
    """Measure plain decoding and DFlash, turn by turn, on many kinds of prompts.

    dflash-mlx benchmark --model qwen3-8b --plot speed.png

    dflash-mlx benchmark --model qwen3-8b --suite gsm8k,humaneval --samples 16

    dflash-mlx benchmark --classes chat,code --block-sizes auto,2,4,8 --mlx-lm

    dflash-mlx benchmark --base-url http://localhost:8000 --model qwen3-8b --no-local
    """
    from ..bench.benchmark import Settings
    from ..terminal import benchmark as terminal

    settings = asdict(manner) | {
        "contexts": o.numbers(manner.contexts, "--contexts"),
        "template": o.template_options(manner.template),
        "temps": o.numbers(manner.temps, "--temps", float),
    }
    measure = asdict(subject) | {
        "kernels": o.kernel_mode(subject.kernels, exact),
        "suites": o.names(subject.suites) or ("builtin",),
        "classes": o.names(subject.classes),
        "block_sizes": terminal.sizes(subject.block_sizes),
        "settings": Settings(**settings),
    }
    asked = terminal.Measure(**measure)
    terminal.run(asked, api_key=api_key, picture=plot, as_json=json, jsonl=jsonl)
