"""Measure how the time and the memory of a draft grow with the context.

The drafter is random, with the heads and the head size of published drafters. A round
adds the features of some committed tokens, and then drafts a block; only the draft is
timed. `--against` measures another checkout of this project in turn with this one, each
time in a new process.

    python -m benchmarks.draft_context --contexts 1024,8192,32768,65536
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx

from dflash_mlx.models.drafters.config import DFlashConfig
from dflash_mlx.models.drafters.dflash import DFlash

HERE = Path(__file__).resolve().parent.parent
TOKENS = 5  # rows that a round adds


def make_drafter(hidden: int, layers: int, window: int | None) -> DFlash:
    """A random float32 drafter with 32 heads of 128, 4 to a key, and blocks of 8 rows.

    Args:
        hidden: Width of the residual stream.
        layers: Number of layers.
        window: Number of committed rows that it sees; None is all.
    """
    mx.random.seed(0)
    config = DFlashConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=1024,
        rms_norm_eps=1e-6,
        max_position_embeddings=2**17,
        block_size=8,
        mask_token_id=0,
        target_layer_ids=(0,),
        num_target_layers=1,
        rope_theta=1e6,
    )
    drafter = DFlash(config, window)
    embedding = mx.random.normal((config.vocab_size, hidden))
    drafter.bind(lambda ids: embedding[ids], lambda h: h @ embedding.T)
    mx.eval(drafter.parameters(), embedding)
    return drafter


def measure(drafter: DFlash, context: int, rounds: int) -> tuple[float, int]:
    """Seconds of a draft after `context` rows, and most bytes that one allocates: the
    medians of `rounds` rounds after three."""
    cache, hidden = drafter.make_cache(), drafter.config.hidden_size

    def commit(rows):
        drafter.extend(mx.random.normal((1, rows, hidden)), cache)
        mx.eval([entry.arrays() for entry in cache])

    commit(context)
    mx.clear_cache()
    times, sizes, anchor = [], [], mx.array([5], mx.uint32)
    for _ in range(3 + rounds):
        commit(TOKENS)
        mx.reset_peak_memory()
        resting, start = mx.get_active_memory(), time.perf_counter()
        mx.eval(drafter.propose(anchor, cache, 8, best))
        times.append(time.perf_counter() - start)
        sizes.append(mx.get_peak_memory() - resting)
    return statistics.median(times[3:]), int(statistics.median(sizes[3:]))


def best(logits, slots, ids=None):
    """Choose the best token of each slot."""
    return mx.argmax(logits, axis=-1)


def run(checkout: Path, *arguments: str) -> tuple[float, int]:
    """Measure one context and window in a new process, with a checkout's code."""
    command = [sys.executable, __file__, "--one", *arguments]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


def main() -> None:
    """Print a table of contexts: milliseconds and megabytes per draft."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", default="1024,8192,32768,65536")
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    contexts = [int(context) for context in options.contexts.split(",")]
    if options.one:
        drafter = make_drafter(options.hidden, options.layers, options.window or None)
        print(json.dumps(measure(drafter, contexts[0], options.rounds)))
        return
    checkouts = [*([options.against] if options.against else []), HERE]
    sizes = [f"--{name}={getattr(options, name)}" for name in ("hidden", "layers")]
    print("| context | window |" + " ms | MB |" * len(checkouts))
    print("|--:|--:|" + "--:|--:|" * len(checkouts))
    for context in contexts:
        for window in (0, options.window):
            cases = [
                f"--contexts={context}",
                f"--window={window}",
                f"--rounds={options.rounds}",
                *sizes,
            ]
            found = [[] for _ in checkouts]
            for _ in range(options.repeats):
                for checkout, results in zip(checkouts, found, strict=True):
                    results.append(run(checkout, *cases))
            cells = [
                f" {1000 * statistics.median(s for s, _ in results):.1f} "
                f"| {statistics.median(b for _, b in results) / 2**20:.1f} |"
                for results in found
            ]
            print(f"| {context} | {window or 'none'} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
