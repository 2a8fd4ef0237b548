"""Measure the embedded pair on held-out exercises: correct answers and acceptance.

    python -m benchmarks.quality [--prompts 200]

Decodes greedily with a block size of 8. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
from random import Random

from dflash_mlx.device import describe
from dflash_mlx.engine import stream_generate
from dflash_mlx.loading import load
from dflash_mlx.stats import Stats
from dflash_mlx.text.chat_template import apply_template
from dflash_mlx.train.exercises import draw

SEED = 2026


def measure(pair, tokenizer, exercises, max_tokens: int = 400) -> tuple[int, Stats]:
    """The number of exactly correct answers, and the counters of all answers.

    Args:
        pair, tokenizer: From `load`.
        exercises: (prompt, expected answer).
        max_tokens: Maximum number of tokens in an answer.
    """
    correct, pooled = 0, Stats()
    options = {"max_tokens": max_tokens, "block_size": pair.drafter.block_size}
    for prompt, expected in exercises:
        ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
        text = ""
        for response in stream_generate(pair, tokenizer, ids, **options):
            text += response.text
        correct += text == expected
        pooled.add(response.stats)
    return correct, pooled


def main() -> None:
    """Measure, and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    args = parser.parse_args()
    pair, tokenizer = load("tiny")
    rng = Random(SEED)
    exercises = [draw(rng, held_out=True) for _ in range(args.prompts)]
    correct, stats = measure(pair, tokenizer, exercises)
    print(f"{correct} of {args.prompts} held-out answers are exactly correct")
    print(f"{stats.tokens_per_round:.2f} tokens per round, {stats.rounds} rounds")
    print(
        "| draft | "
        + " | ".join(str(i + 1) for i in range(len(stats.acceptance)))
        + " |"
    )
    print("| kept | " + " | ".join(f"{share:.2f}" for share in stats.acceptance) + " |")
    print(json.dumps({"right": correct, **stats.as_dict(), "machine": describe()}))


if __name__ == "__main__":
    main()
