"""Measure the cost of rollback: rounds that keep all rows, and rounds that keep fewer.

The model is a random hybrid with three Gated DeltaNet layers per attention layer, as in
Qwen3.5, and so large that a pass of one row is limited by reading weights. The scripted
drafter proposes the target's own text with a fixed number of correct drafts per round,
so rounds differ only in the work of the commit.

    python -m benchmarks.rollback [--hidden 2048] [--layers 8]
"""

from __future__ import annotations

import argparse
import statistics
import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.qwen3_5 import Model, ModelArgs

from benchmarks.examine import greedy, some_prompt
from dflash_mlx.decoding.loop import decode
from dflash_mlx.pair import Pair
from tests.equipment.scripted import Script

BLOCK = 8


def hybrid(hidden: int, layers: int, heads: int) -> nn.Module:
    """A random float32 model of Qwen3.5's structure.

    Args:
        hidden: Width of the residual stream.
        layers: Number of layers; every fourth one is attention.
        heads: Value heads of a recurrent layer, each with a state of 64 x 64. With a
            width of 2048, 24 heads give the same ratio of state to weights as in
            Qwen3.5-27B.
    """
    mx.random.seed(0)
    text = {
        "model_type": "qwen3_5",
        "hidden_size": hidden,
        "intermediate_size": 7 * hidden // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 256,
        "head_dim": 128,
        "vocab_size": 4096,
        "linear_num_value_heads": heads,
        "linear_num_key_heads": heads // 2,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
    }
    model = Model(ModelArgs.from_dict({"model_type": "qwen3_5", "text_config": text}))
    model.eval()
    mx.eval(model.parameters())
    return model


def seconds_per_round(pair: Pair, prompt: list[int], rounds: int) -> list[float]:
    """Seconds of the full-width rounds, without the first one."""
    times = []
    start = time.perf_counter()
    steps = decode(pair, prompt, max_tokens=BLOCK * rounds, block_size=BLOCK)
    for _, round in zip(range(rounds), steps, strict=False):
        now = time.perf_counter()
        if round.width == BLOCK:
            times.append(now - start)
        start = now
    return times[1:]


def main() -> None:
    """Print a table of rows kept, milliseconds per round, and the ratio to all kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = hybrid(options.hidden, options.layers, options.heads)
    size = sum(weight.size for _, weight in tree_flatten(model.parameters()))
    prompt = some_prompt(32)
    answer = greedy(model, prompt, BLOCK * options.rounds + BLOCK)
    plans = (BLOCK - 1, 0, 1, 3, 5, 6)
    times: dict[int, list[float]] = {right: [] for right in plans}
    for repeat in range(options.repeats + 1):
        for right in plans:
            pair = Pair.of(model, Script(prompt + answer, (right,), BLOCK, vocab=4096))
            found = seconds_per_round(pair, prompt, options.rounds)
            if repeat:  # the first repeat is a warm-up
                times[right].append(statistics.median(found))
    all_kept = times[BLOCK - 1]
    print(f"{size / 1e6:.0f}M float32 parameters, blocks of {BLOCK}")
    print("| rows kept | ms per round | ratio to all kept |\n|--:|--:|--:|")
    for right in plans:
        ratio = statistics.median(
            a / b for a, b in zip(times[right], all_kept, strict=True)
        )
        ms = 1000 * statistics.median(times[right])
        print(f"| {right + 1} | {ms:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
