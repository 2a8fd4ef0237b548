"""Race four loops: mlx-lm, dflash-mlx without and with drafts, and published DFlash.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 \
        python -m benchmarks.race [--published] [--prefill 4000]

All loops run in one process, interleaved, on the embedded pair widened to 189 million
float32 parameters (widen.py). At this size a pass of one row is limited by memory
bandwidth, as on a GPU. The published loop is the package `dflash` 0.1.0, which no other
code needs. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import mean, median

import mlx.core as mx
import mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step

from dflash_mlx.bench.widen import RACE, widen
from dflash_mlx.cache.prompt_cache import PromptCache
from dflash_mlx.decoding.loop import decode
from dflash_mlx.device import describe
from dflash_mlx.engine import stream_generate
from dflash_mlx.loading import load
from dflash_mlx.pair import Pair
from dflash_mlx.text.chat_template import apply_template

PROMPTS = (
    "What is 487 + 356?",
    "Write the 9 times table up to 12.",
    "Write a Python function multiply_river that returns the product of x and y.",
    "Write the numbers from 233 to 238 in words.",
)

# Tokens, seconds after the first token, and tokens per round (1 without drafts).
Answer = tuple[list[int], float, float]


def race_pair() -> tuple[Pair, object]:
    """The widened pair in float32, and its tokenizer."""
    pair, tokenizer = load("tiny")
    pair.model.set_dtype(mx.float32)
    pair.drafter.set_dtype(mx.float32)
    return widen(pair, RACE), tokenizer


def run_mlx_lm(pair: Pair, tokenizer, ids, tokens: int) -> Answer:
    """mlx_lm.stream_generate."""
    produced, start = [], 0.0
    responses = mlx_lm.stream_generate(pair.model, tokenizer, ids, max_tokens=tokens)
    for response in responses:
        start = start or time.perf_counter()
        produced.append(response.token)
    return produced, time.perf_counter() - start, 1.0


def run_ours(speculate: bool, block_size: int | None = None) -> Callable[..., Answer]:
    """Our stream_generate.

    Args:
        speculate: False decodes plainly.
        block_size: Rows of a block; None lets the engine choose.
    """

    def run(pair, tokenizer, ids, tokens):
        produced, start = [], 0.0
        for response in stream_generate(
            pair,
            tokenizer,
            ids,
            max_tokens=tokens,
            block_size=block_size,
            speculate=speculate,
        ):
            start = start or time.perf_counter()
            produced.append(response.token)
        seconds = time.perf_counter() - start
        return produced, seconds, response.stats.tokens_per_round

    return run


def run_published(pair: Pair) -> Callable[..., Answer]:
    """The published loop with the same weights.

    It replaces layers of its model, so it gets a copy that shares the weights.
    """
    from dflash.model_mlx import DFlashConfig, DFlashDraftModel
    from dflash.model_mlx import stream_generate as published

    ours = pair.drafter.config
    names = set(DFlashConfig.__dataclass_fields__) & set(vars(ours))
    draft = DFlashDraftModel(DFlashConfig(**{name: vars(ours)[name] for name in names}))
    draft.load_weights(list(tree_flatten(pair.drafter.parameters())))
    draft.eval()
    parts = pair.target.parts
    layers = list(parts.list_layers(pair.model))
    model = parts.with_layers(pair.model, layers)

    def run(_, tokenizer, ids, tokens):
        produced, rounds, start = [], 0, 0.0
        for response in published(
            model, draft, tokenizer, mx.array(ids), max_tokens=tokens
        ):
            start = start or time.perf_counter()
            produced += response.tokens
            rounds += response.accepted is not None
        seconds = time.perf_counter() - start
        return produced, seconds, (len(produced) - 1) / max(rounds, 1)

    return run


def race(runners: dict[str, Callable], pair, tokenizer, tokens: int, repeats: int):
    """Run every loop on every prompt in turn.

    Args:
        runners: Name -> function that answers; the first one's text is the reference.
        pair, tokenizer: From `race_pair`.
        tokens: Tokens of an answer.
        repeats: Number of answers per loop and prompt.

    Returns:
        Name -> {tokens_per_second, spread, tokens_per_round, by_prompt, identical}.
        Speeds are medians over repeats, then over prompts.
    """
    prompts = [
        apply_template(tokenizer, [{"role": "user", "content": prompt}])
        for prompt in PROMPTS
    ]
    for run in runners.values():  # warm-up
        run(pair, tokenizer, prompts[0], 16)
    speeds = {name: [[] for _ in prompts] for name in runners}
    tokens_per_round = {name: [] for name in runners}
    identical = dict.fromkeys(runners, True)
    for _ in range(repeats):
        for p, ids in enumerate(prompts):
            reference = None
            for name, run in runners.items():
                produced, seconds, per_round = run(pair, tokenizer, ids, tokens)
                reference = reference or produced
                identical[name] &= produced == reference
                speeds[name][p].append((len(produced) - 1) / seconds)
                tokens_per_round[name].append(per_round)
    return {
        name: {
            "tokens_per_second": median(median(s) for s in speeds[name]),
            "spread": [min(map(min, speeds[name])), max(map(max, speeds[name]))],
            "tokens_per_round": mean(tokens_per_round[name]),
            "by_prompt": [median(s) for s in speeds[name]],
            "identical": identical[name],
        }
        for name in runners
    }


def ratio(results: dict, name: str, base: str) -> float:
    """The median over prompts of the ratio of two loops' speeds."""
    pairs = zip(results[name]["by_prompt"], results[base]["by_prompt"], strict=True)
    return median(a / b for a, b in pairs)


def prefill(pair: Pair, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Time and peak memory of a prefill of `rows` tokens.

    Returns:
        Name -> {seconds, peak_mb}.
    """
    ids = mx.random.randint(0, 400, (rows,), key=mx.random.key(1)).tolist()

    def prefill_mlx_lm():
        next(generate_step(mx.array(ids), pair.model, max_tokens=1))

    def prefill_ours(speculate):
        cache = PromptCache(pair)
        rounds = decode(
            pair, ids, max_tokens=1, speculate=speculate, prompt_cache=cache
        )
        next(rounds)

    runners = {
        "mlx-lm": prefill_mlx_lm,
        "plain": lambda: prefill_ours(False),
        "dflash": lambda: prefill_ours(True),
    }
    seconds = {name: [] for name in runners}
    peaks = dict.fromkeys(runners, 0)
    for _ in range(repeats):
        for name, run in runners.items():
            mx.clear_cache()
            mx.reset_peak_memory()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], mx.get_peak_memory())
    return {
        name: {"seconds": median(seconds[name]), "peak_mb": peaks[name] / 1e6}
        for name in runners
    }


def drafting_memory_mb(pair: Pair, rows: int, step: int = 2048) -> float:
    """Megabytes that drafting may add to a prefill: cache and one chunk of features.

    The drafter's weights are in memory in every run, so they are not included.
    """
    config = pair.drafter.config
    width = config.num_key_value_heads * config.head_dim
    cached = -(-rows // 256) * 256 * width * 2 * config.num_hidden_layers
    features = min(rows, step) * len(config.target_layer_ids) * config.hidden_size
    return (cached + features) * 4 / 1e6


def main() -> None:
    """Run the race, and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true", help="race dflash 0.1.0")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=4000, help="0 leaves it out")
    args = parser.parse_args()
    pair, tokenizer = race_pair()
    runners = {
        "mlx-lm": run_mlx_lm,
        "plain": run_ours(False),
        "dflash": run_ours(True),
    }
    if args.published:
        runners["published"] = run_published(pair)
    machine = describe()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    results = race(runners, pair, tokenizer, args.tokens, args.repeats)
    print("| engine | tokens/s | range | vs plain | tokens per round | same text |")
    print("|---|--:|--:|--:|--:|---|")
    for name, row in results.items():
        low, high = row["spread"]
        print(
            f"| {name} | {row['tokens_per_second']:.1f} | {low:.1f}-{high:.1f} | "
            f"{ratio(results, name, 'plain'):.2f} | {row['tokens_per_round']:.2f} | "
            f"{'yes' if row['identical'] else 'NO'} |"
        )
    report = {"decode": results, "machine": machine}
    if args.prefill:
        report["prefill"] = rows = prefill(pair, args.prefill, args.repeats)
        extra = drafting_memory_mb(pair, args.prefill)
        print(f"\nPrefill of {args.prefill} tokens; drafting may add {extra:.0f} MB:")
        print("| engine | seconds | speed vs mlx-lm | peak MB |\n|---|--:|--:|--:|")
        for name, row in rows.items():
            share = rows["mlx-lm"]["seconds"] / row["seconds"]
            print(
                f"| {name} | {row['seconds']:.2f} | {share:.2f} | "
                f"{row['peak_mb']:.0f} |"
            )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
