"""The command line: arguments to one call each.

Nothing heavy is imported until a command runs, so --help is instant.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .errors import DFlashError
from .terminal import options as o

app = typer.Typer(
    name="dflash-mlx",
    help="DFlash speculative decoding on MLX: the same words, several times faster.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(function: Callable) -> Callable:
    """Register a command. A user's mistake becomes one sentence and an exit code;
    Ctrl-C exits with 130; a bug stays a traceback."""

    @app.command()
    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            function(*args, **kwargs)
        except DFlashError as error:
            print(f"dflash-mlx: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return run


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Show versions.")] = False,
):
    if version:
        from importlib.metadata import version as of

        names = ("dflash-mlx", "mlx", "mlx-lm")
        print(", ".join(f"{name} {of(name)}" for name in names))
        raise typer.Exit


@command
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; - reads it from stdin.")
    ] = None,
    prompt_option: Annotated[
        str | None, o.option("--prompt -p", "The prompt, mlx-lm's way.", o.PROMPT)
    ] = None,
    model: o.Model = "tiny",
    draft: o.Draft = None,
    revision: o.Revision = None,
    quantize: o.Quantize = None,
    draft_quantize: o.DraftQuantize = None,
    draft_window: o.DraftWindow = None,
    adapter_path: o.AdapterPath = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kernels: o.Kernels = "auto",
    exact: o.Exact = False,
    system_prompt: o.SystemPrompt = None,
    prefill_response: o.PrefillResponse = None,
    ignore_chat_template: o.IgnoreChatTemplate = False,
    chat_template_config: o.ChatTemplateConfig = None,
    extra_eos_token: o.ExtraEosToken = None,
    stop: o.Stop = None,
    max_tokens: o.MaxTokens = 1024,
    temp: o.Temp = 0.0,
    top_p: o.TopP = 1.0,
    top_k: o.TopK = 0,
    min_p: o.MinP = 0.0,
    min_tokens_to_keep: o.MinTokensToKeep = 1,
    xtc_probability: o.XtcProbability = 0.0,
    xtc_threshold: o.XtcThreshold = 0.1,
    seed: o.Seed = None,
    repetition_penalty: o.RepetitionPenalty = None,
    presence_penalty: o.PresencePenalty = None,
    frequency_penalty: o.FrequencyPenalty = None,
    logit_bias: o.LogitBias = None,
    block_size: o.BlockSize = None,
    plain: o.Plain = False,
    require_dflash: o.RequireDFlash = False,
    prefill_step_size: o.PrefillStepSize = 2048,
    max_kv_size: o.MaxKVSize = None,
    kv_bits: o.KVBits = None,
    kv_group_size: o.KVGroupSize = 64,
    quantized_kv_start: o.QuantizedKVStart = 5000,
    json: o.Json = False,
    verbose: o.Verbose = "T",
):
    """Answer one prompt.

    dflash-mlx generate "What is 12 + 34?"

    cat notes.txt | dflash-mlx generate - --model qwen3-8b
    """
    from .terminal import generate as terminal
    from .terminal.ask import Ask, make_sampling

    sampling = make_sampling(
        temp=temp,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        min_tokens_to_keep=min_tokens_to_keep,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=logit_bias,
    )
    ask = Ask(
        model=model,
        draft=draft,
        revision=revision,
        quantize=quantize,
        draft_quantize=draft_quantize,
        draft_window=draft_window,
        adapter_path=adapter_path,
        trust_remote_code=trust_remote_code,
        kernels=o.kernel_mode(kernels, exact),
        system_prompt=system_prompt,
        chat_template_config=chat_template_config,
        extra_eos_token=tuple(extra_eos_token or ()),
        stop=tuple(stop or ()),
        max_tokens=max_tokens,
        sampling=sampling,
        block_size=block_size,
        plain=plain,
        require_dflash=require_dflash,
        prefill_step_size=prefill_step_size,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start,
    )
    text = terminal.read_prompt(prompt, prompt_option)
    terminal.run(
        ask,
        text,
        prefill_response=prefill_response,
        template=not ignore_chat_template,
        as_json=json,
        verbose=o.truth(verbose, "--verbose"),
    )


@command
def chat(
    model: o.Model = "tiny",
    draft: o.Draft = None,
    revision: o.Revision = None,
    quantize: o.Quantize = None,
    draft_quantize: o.DraftQuantize = None,
    draft_window: o.DraftWindow = None,
    adapter_path: o.AdapterPath = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kernels: o.Kernels = "auto",
    exact: o.Exact = False,
    system_prompt: o.SystemPrompt = None,
    chat_template_config: o.ChatTemplateConfig = None,
    max_tokens: o.MaxTokens = 1024,
    temp: o.Temp = 0.0,
    top_p: o.TopP = 1.0,
    top_k: o.TopK = 0,
    min_p: o.MinP = 0.0,
    xtc_probability: o.XtcProbability = 0.0,
    xtc_threshold: o.XtcThreshold = 0.1,
    seed: o.Seed = None,
    repetition_penalty: o.RepetitionPenalty = None,
    block_size: o.BlockSize = None,
    plain: o.Plain = False,
    require_dflash: o.RequireDFlash = False,
    prefill_step_size: o.PrefillStepSize = 2048,
    max_kv_size: o.MaxKVSize = None,
    kv_bits: o.KVBits = None,
    kv_group_size: o.KVGroupSize = 64,
    quantized_kv_start: o.QuantizedKVStart = 5000,
    verbose: o.Verbose = "T",
):
    """Talk to a model; q quits, r resets, h helps.

    dflash-mlx chat --model qwen3-8b
    """
    from .terminal import chat as terminal
    from .terminal.ask import Ask, make_sampling

    sampling = make_sampling(
        temp=temp,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        xtc_probability=xtc_probability,
        xtc_threshold=xtc_threshold,
        seed=seed,
        repetition_penalty=repetition_penalty,
    )
    ask = Ask(
        model=model,
        draft=draft,
        revision=revision,
        quantize=quantize,
        draft_quantize=draft_quantize,
        draft_window=draft_window,
        adapter_path=adapter_path,
        trust_remote_code=trust_remote_code,
        kernels=o.kernel_mode(kernels, exact),
        system_prompt=system_prompt,
        chat_template_config=chat_template_config,
        max_tokens=max_tokens,
        sampling=sampling,
        block_size=block_size,
        plain=plain,
        require_dflash=require_dflash,
        prefill_step_size=prefill_step_size,
        max_kv_size=max_kv_size,
        kv_bits=kv_bits,
        kv_group_size=kv_group_size,
        quantized_kv_start=quantized_kv_start,
    )
    terminal.run(ask, verbose=o.truth(verbose, "--verbose"))


@command
def models(
    families: Annotated[
        bool, typer.Option("--families", help="The architectures of mlx-lm instead.")
    ] = False,
):
    """List the known targets, their drafters, and what this version runs."""
    from .terminal.models import show, show_families

    show_families() if families else show()


@command
def kernels(
    model: Annotated[
        str | None, o.option("--model", "Measure this model's shapes anew.")
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
    """
    from .terminal import kernels as terminal

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
def doctor(json: o.Json = False):
    """Tell what this machine is, and what decoding can count on."""
    from .terminal.doctor import run

    run(json)


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
    """
    from .bench.verify import run
    from .terminal.ask import note

    run(
        prompts,
        model=model,
        draft=draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels=o.kernel_mode(kernels, exact),
        block_size=block_size,
        max_tokens=max_tokens,
        as_json=json,
        notice=note,
    )


PROBE = "Probe"
Prompts = Annotated[
    list[str] | None, o.option("--prompt -p", "What is asked; repeatable.", PROBE)
]
Target = Annotated[
    str | None, o.option("--model", "A target to measure with: alias, Hub id, folder.")
]
READING = "Reading"
DRAFTER_HELP = "Drafter: folder, Hub id, or the alias of its target."


@command
def inspect(
    drafter: Annotated[str, typer.Argument(help=DRAFTER_HELP)],
    model: Target = None,
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    prompt: Prompts = None,
    max_tokens: o.MaxTokens = 64,
    json: o.Json = False,
):
    """Tell what a drafter's checkpoint is, and how each field was read.

    With --model, drafts under every plausible reading and tells which is right.

    dflash-mlx inspect z-lab/Qwen3-8B-DFlash-b16 --model qwen3-8b
    """
    from .terminal.inspect import run

    run(
        drafter,
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        prompts=prompt,
        max_tokens=max_tokens,
        as_json=json,
    )


@command
def convert(
    drafter: Annotated[str, typer.Argument(help=DRAFTER_HELP)],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    bits: Annotated[
        int | None, o.option("--bits", "Quantize linear layers: 4 or 8.")
    ] = None,
    dtype: Annotated[
        str | None, o.option("--dtype", "bfloat16, float16 or float32.")
    ] = None,
    tap_shift: Annotated[
        int, o.option("--tap-shift", "Added to the layers that it reads.", READING)
    ] = 0,
    sample_from_anchor: Annotated[
        bool | None,
        o.option(
            "--sample-from-anchor/--no-sample-from-anchor",
            "The anchor's slot predicts.",
            READING,
        ),
    ] = None,
    causal: Annotated[
        bool | None,
        o.option("--causal/--no-causal", "No row sees a later one.", READING),
    ] = None,
    model: Target = None,
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    prompt: Prompts = None,
    max_tokens: o.MaxTokens = 64,
):
    """Write a drafter of any packaging in our own format, quantized if wanted.

    With --model, measures tokens per round before and after.

    dflash-mlx convert z-lab/Qwen3-8B-DFlash-b16 --bits 4 --out drafter-4bit
    """
    from .convert import Changes
    from .terminal.convert import run

    run(
        drafter,
        out,
        Changes(bits, dtype, tap_shift, sample_from_anchor, causal),
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        prompts=prompt,
        max_tokens=max_tokens,
    )


WHAT = "What is asked"
HOW = "How it is measured"
RIVALS = "Who answers"


@command
def benchmark(
    model: o.Model = "tiny",
    draft: Annotated[
        str | None,
        o.option("--draft --draft-model", "A drafter, or untrained: random weights."),
    ] = None,
    shape: Annotated[
        str | None,
        o.option("--shape", "The embedded pair at the size of this model."),
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
            "builtin, gsm8k, math500, humaneval, mbpp, mt-bench, aime25.",
            WHAT,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        o.option("--classes", "Of the built-in suite: chat,code; all of them.", WHAT),
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
    from .bench.benchmark import Settings
    from .terminal import benchmark as terminal
    from .terminal.ask import parse_object

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
        template=parse_object(chat_template_config, "--chat-template-config"),
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


TRAINING = "Training"


@command
def train(
    data: Annotated[Path, typer.Option(help="JSONL of prompts or conversations.")],
    out: Annotated[Path, typer.Option(help="Folder of the drafter; resumes there.")],
    model: o.Model = "tiny",
    quantize: o.Quantize = None,
    trust_remote_code: o.TrustRemoteCode = False,
    kind: Annotated[
        str, o.option("--kind", "dflash, dflash2 or dspark.", TRAINING)
    ] = "dflash",
    warm_start: Annotated[
        str | None,
        o.option("--warm-start", "A drafter to start from: its body stays.", TRAINING),
    ] = None,
    block_size: Annotated[
        int | None, o.option("--block-size", "Rows; 16.", TRAINING)
    ] = None,
    layers: Annotated[
        int | None, o.option("--layers", "Draft layers; 5.", TRAINING)
    ] = None,
    rank: Annotated[
        int | None, o.option("--rank", "Of the selector or Markov head; 256.", TRAINING)
    ] = None,
    markov_head: Annotated[
        str | None, o.option("--markov-head", "vanilla, gated or rnn.", TRAINING)
    ] = None,
    taps: Annotated[
        str | None, o.option("--taps", "Target layers to read: 1,9,17.", TRAINING)
    ] = None,
    mask_token_id: Annotated[
        int | None, o.option("--mask-token-id", "An id that text lacks.", TRAINING)
    ] = None,
    context_window: Annotated[
        int | None, o.option("--context-window", "Rows it is shown.", TRAINING)
    ] = None,
    steps: Annotated[int, o.option("--steps", "Updates.", TRAINING)] = 1000,
    batch: Annotated[int, o.option("--batch", "Sequences per update.", TRAINING)] = 8,
    anchors: Annotated[int, o.option("--anchors", "Blocks each.", TRAINING)] = 64,
    max_length: Annotated[int, o.option("--max-length", "Tokens.", TRAINING)] = 2048,
    lr: Annotated[float, o.option("--lr", "Peak learning rate.", TRAINING)] = 6e-4,
    warmup: Annotated[float, o.option("--warmup", "Share of steps.", TRAINING)] = 0.04,
    clip: Annotated[float, o.option("--clip", "Gradient norm.", TRAINING)] = 1.0,
    gamma: Annotated[
        float | None, o.option("--gamma", "Decay of slot weights.", TRAINING)
    ] = None,
    held_out: Annotated[int, o.option("--held-out", "For tests.", TRAINING)] = 32,
    eval_every: Annotated[int, o.option("--eval-every", "Updates.", TRAINING)] = 100,
    save_every: Annotated[int, o.option("--save-every", "Updates.", TRAINING)] = 100,
    seed: Annotated[int, o.option("--seed", "Of everything.", TRAINING)] = 0,
    temp: o.Temp = 0.0,
    max_tokens: o.MaxTokens = 512,
):
    """Train a drafter for a model, on answers that the model writes itself.

    Run it again with the same settings to go on after an interruption.
    """
    from .terminal.train import run
    from .train.settings import TrainOptions

    layers_read = o.numbers(taps, "--taps") if taps else None
    settings = TrainOptions(
        kind=kind,
        warm_start=warm_start,
        rank=rank,
        markov_head=markov_head,
        block_size=block_size,
        layers=layers,
        taps=layers_read,
        mask_token_id=mask_token_id,
        context_window=context_window,
        steps=steps,
        batch=batch,
        anchors=anchors,
        max_length=max_length,
        lr=lr,
        warmup=warmup,
        clip=clip,
        gamma=gamma,
        held_out=held_out,
        eval_every=eval_every,
        save_every=save_every,
        seed=seed,
    )
    run(
        settings,
        data,
        out,
        model=model,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        temp=temp,
        max_tokens=max_tokens,
    )


def main() -> None:
    """Entry point of the dflash-mlx program."""
    app()
