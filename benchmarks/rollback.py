"""What taking rows back costs: rounds that keep all rows against rounds that do not.

A random hybrid (three Gated DeltaNet layers to one of attention, as Qwen3.5 has it),
large enough that a row is bound by reading weights, decodes with a scripted drafter
that is always right, or right a fixed number of times. Texts are what the target
says, so the work of a round differs only in what its commit leaves to do.
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
        layers: Layers, every fourth one of attention.
        heads: Value heads of a recurrent layer, each with a state of 64 x 64. At a
            width of 2048, 24 give a layer the ratio of state to weights that
            Qwen3.5-27B has.
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
    """Times of a decoding's rounds, without the prefill, the first and the last."""
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
    """Print a table: rows kept, seconds per round, ratio to all rows kept."""
    parser = argparse.ArgumentParser(description=__doc__)
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
            if repeat:  # the first time round warms up
                times[right].append(statistics.median(found))
    whole = times[BLOCK - 1]
    print(f"{size / 1e6:.0f}M float32 parameters, blocks of {BLOCK}")
    print("| rows kept | ms per round | of all kept |\n|--:|--:|--:|")
    for right in plans:
        ratio = statistics.median(
            a / b for a, b in zip(times[right], whole, strict=True)
        )
        ms = 1000 * statistics.median(times[right])
        print(f"| {right + 1} | {ms:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
