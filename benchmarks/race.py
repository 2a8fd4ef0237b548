"""The race: mlx-lm, our plain mode, our DFlash mode and the published DFlash loop.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 \
        python -m benchmarks.race [--published] [--prefill 4000]

All in one process and interleaved, on the embedded pair widened to 189 million
float32 parameters (widen.py), where one row is bound by memory as on a GPU. The
published loop is the package `dflash` 0.1.0, installed for this alone. A table, then
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

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

# An answer's tokens, seconds after the first token, and tokens per round (or 1).
Answer = tuple[list[int], float, float]


def race_pair() -> tuple[Pair, object]:
    """The embedded pair in float32 at the race's size, and its tokenizer."""
    pair, tokenizer = load("tiny")
    pair.model.set_dtype(mx.float32)
    pair.drafter.set_dtype(mx.float32)
    return widen(pair, RACE), tokenizer


def run_mlx_lm(pair: Pair, tokenizer, ids, tokens: int) -> Answer:
    """mlx_lm.stream_generate."""
    said, start = [], 0.0
    responses = mlx_lm.stream_generate(pair.model, tokenizer, ids, max_tokens=tokens)
    for response in responses:
        start = start or time.perf_counter()
        said.append(response.token)
    return said, time.perf_counter() - start, 1.0


def run_ours(speculate: bool, block_size: int | None = None) -> Callable[..., Answer]:
    """Our stream_generate, plain or with drafts, of one width or as it sees fit."""

    def go(pair, tokenizer, ids, tokens):
        said, start = [], 0.0
        for response in stream_generate(
            pair,
            tokenizer,
            ids,
            max_tokens=tokens,
            block_size=block_size,
            speculate=speculate,
        ):
            start = start or time.perf_counter()
            said.append(response.token)
        seconds = time.perf_counter() - start
        return said, seconds, response.stats.tokens_per_round

    return go


def published_runner(pair: Pair) -> Callable[..., Answer]:
    """The published loop on the same weights, with a model of its own: it replaces
    layers of the one it is given."""
    from dflash.model_mlx import DFlashConfig, DFlashDraftModel
    from dflash.model_mlx import stream_generate as published

    ours = pair.drafter.config
    names = set(DFlashConfig.__dataclass_fields__) & set(vars(ours))
    draft = DFlashDraftModel(DFlashConfig(**{name: vars(ours)[name] for name in names}))
    draft.load_weights(list(tree_flatten(pair.drafter.parameters())))
    draft.eval()
    anatomy = pair.target.anatomy
    layers = list(anatomy.list_layers(pair.model))
    model = anatomy.with_layers(pair.model, layers)

    def go(_, tokenizer, ids, tokens):
        said, rounds, start = [], 0, 0.0
        for response in published(
            model, draft, tokenizer, mx.array(ids), max_tokens=tokens
        ):
            start = start or time.perf_counter()
            said += response.tokens
            rounds += response.accepted is not None
        seconds = time.perf_counter() - start
        return said, seconds, (len(said) - 1) / max(rounds, 1)

    return go


def race(runners: dict[str, Callable], pair, tokenizer, tokens: int, repeats: int):
    """Run everyone on every prompt, in turn; medians per prompt, then over prompts.

    Returns:
        name -> {tokens_per_second, tokens_per_round, by_prompt, identical}.
    """
    asked = [
        apply_template(tokenizer, [{"role": "user", "content": prompt}])
        for prompt in PROMPTS
    ]
    for go in runners.values():  # warm-up
        go(pair, tokenizer, asked[0], 16)
    speeds = {name: [[] for _ in asked] for name in runners}
    taus = {name: [] for name in runners}
    identical = dict.fromkeys(runners, True)
    for _ in range(repeats):
        for p, ids in enumerate(asked):
            first = None
            for name, go in runners.items():
                said, seconds, tau = go(pair, tokenizer, ids, tokens)
                first = first or said
                identical[name] &= said == first
                speeds[name][p].append((len(said) - 1) / seconds)
                taus[name].append(tau)
    return {
        name: {
            "tokens_per_second": median(median(s) for s in speeds[name]),
            "spread": [min(map(min, speeds[name])), max(map(max, speeds[name]))],
            "tokens_per_round": sum(taus[name]) / len(taus[name]),
            "by_prompt": [median(s) for s in speeds[name]],
            "identical": identical[name],
        }
        for name in runners
    }


def ratio(results: dict, name: str, base: str) -> float:
    """Median over prompts of the ratio of two runners' medians."""
    pairs = zip(results[name]["by_prompt"], results[base]["by_prompt"], strict=True)
    return median(a / b for a, b in pairs)


def prefill(pair: Pair, rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of a prefill of `rows` tokens: mlx-lm, plain, DFlash."""
    ids = mx.random.randint(0, 400, (rows,), key=mx.random.key(1)).tolist()

    def theirs():
        next(generate_step(mx.array(ids), pair.model, max_tokens=1))

    def ours(speculate):
        cache = PromptCache(pair)
        rounds = decode(
            pair, ids, max_tokens=1, speculate=speculate, prompt_cache=cache
        )
        next(rounds)

    runners = {
        "mlx-lm": theirs,
        "plain": lambda: ours(False),
        "dflash": lambda: ours(True),
    }
    seconds = {name: [] for name in runners}
    peaks = dict.fromkeys(runners, 0)
    for _ in range(repeats):
        for name, go in runners.items():
            mx.clear_cache()
            mx.reset_peak_memory()
            start = time.perf_counter()
            go()
            seconds[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], mx.get_peak_memory())
    return {
        name: {"seconds": median(seconds[name]), "peak_mb": peaks[name] / 1e6}
        for name in runners
    }


def allowance(pair: Pair, rows: int, step: int = 2048) -> float:
    """MB that drafting may add to a prefill's peak: cache and a chunk of features.

    The drafter's weights are resident for every runner here.
    """
    config = pair.drafter.config
    width = config.num_key_value_heads * config.head_dim
    cached = -(-rows // 256) * 256 * width * 2 * config.num_hidden_layers
    features = min(rows, step) * len(config.target_layer_ids) * config.hidden_size
    return (cached + features) * 4 / 1e6


def main() -> None:
    """Run the race and print it."""
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
        runners["published"] = published_runner(pair)
    machine = describe()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    results = race(runners, pair, tokenizer, args.tokens, args.repeats)
    print("| engine | tokens/s | range | of plain | tokens per round | same text |")
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
        extra = allowance(pair, args.prefill)
        print(f"\nPrefill of {args.prefill} tokens; drafting may add {extra:.0f} MB:")
        print("| engine | seconds | of mlx-lm's speed | peak MB |\n|---|--:|--:|--:|")
        for name, row in rows.items():
            share = rows["mlx-lm"]["seconds"] / row["seconds"]
            print(
                f"| {name} | {row['seconds']:.2f} | {share:.2f} | "
                f"{row['peak_mb']:.0f} |"
            )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
