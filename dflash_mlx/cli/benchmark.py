"""`benchmark`: plain decoding and DFlash, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..terminal import completion
from ..terminal import options as o
from .app import command

WHAT = "What is asked"
HOW = "How it is measured"
RIVALS = "Who answers"


@command
def benchmark(
    model: o.Model = "tiny",
    draft: Annotated[
        str | None,
        o.option(
            "--draft --draft-model",
            "A drafter, or untrained: random weights.",
            autocompletion=completion.drafters,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        o.option(
            "--shape",
            "The embedded pair at the size of this model.",
            autocompletion=completion.shapes,
        ),
    ] = None,
    quantize: o.Quantize = None,
    draft_quantize: o.DraftQuantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kernels: o.Kernels = "auto",
    exact: o.Exact = False,
    suite: Annotated[
        list[str] | None,
        o.option(
            "--suite",
            f"{', '.join(completion.SUITES)}.",
            WHAT,
            autocompletion=completion.words(*completion.SUITES),
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        o.option(
            "--classes",
            "Of the built-in suite: chat,code; all of them.",
            WHAT,
            autocompletion=completion.classes,
        ),
    ] = None,
    samples: Annotated[
        int, o.option("--samples", "Prompts at most of a class or suite.", WHAT)
    ] = 3,
    context: Annotated[
        int, o.option("--context", "Tokens of the class long-context.", WHAT)
    ] = 2048,
    contexts: Annotated[
        str, o.option("--contexts", "Pad all prompts to these: 0,8192.", WHAT)
    ] = "0",
    max_tokens: Annotated[
        int, o.option("--max-tokens -m", "Most tokens of an answer.", WHAT)
    ] = 128,
    ignore_eos: Annotated[
        bool, o.option("--ignore-eos", "Answers of --max-tokens, always.", WHAT)
    ] = False,
    chat_template_config: o.ChatTemplateConfig = None,
    block_sizes: Annotated[
        str, o.option("--block-sizes", "auto,2,4,8: fixed ones beside auto.", RIVALS)
    ] = "auto",
    mlx_lm: Annotated[
        bool, o.option("--mlx-lm", "Stock mlx_lm.stream_generate too.", RIVALS)
    ] = False,
    base_url: Annotated[
        str | None, o.option("--base-url", "An OpenAI-compatible server too.", RIVALS)
    ] = None,
    api_key: Annotated[
        str | None, o.option("--api-key", "The server's key.", RIVALS)
    ] = None,
    api_model: Annotated[
        str | None, o.option("--api-model", "The server's name of the model.", RIVALS)
    ] = None,
    local: Annotated[
        bool, o.option("--local/--no-local", "Ask our engine too.", RIVALS)
    ] = True,
    temps: Annotated[
        str, o.option("--temps --temp", "Temperatures: 0,0.6,1.", o.SAMPLING)
    ] = "0",
    top_p: o.TopP = 1.0,
    top_k: o.TopK = 0,
    min_p: o.MinP = 0.0,
    seed: Annotated[int, o.option("--seed", "Of all answers.", o.SAMPLING)] = 0,
    repeats: Annotated[
        int, o.option("--repeats", "Answers of each to each prompt.", HOW)
    ] = 3,
    warmup: Annotated[
        int, o.option("--warmup", "Tokens of answers before these.", HOW)
    ] = 16,
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

    settings = Settings(
        temps=o.numbers(temps, "--temps", float),
        contexts=o.numbers(contexts, "--contexts"),
        max_tokens=max_tokens,
        repeats=repeats,
        warmup=warmup,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        endless=ignore_eos,
        template=o.parse_object(chat_template_config, "--chat-template-config"),
    )
    asked = terminal.Measure(
        model=model,
        draft=draft,
        shape=shape,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels=o.kernel_mode(kernels, exact),
        suites=o.names(suite) or ("builtin",),
        classes=o.names(classes),
        samples=samples,
        context=context,
        block_sizes=terminal.sizes(block_sizes),
        mlx_lm=mlx_lm,
        base_url=base_url,
        api_model=api_model,
        local=local,
        settings=settings,
    )
    terminal.run(asked, api_key=api_key, picture=plot, as_json=json, jsonl=jsonl)
