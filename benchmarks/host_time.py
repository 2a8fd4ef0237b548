"""Measure what a round takes beside its models: controller, planner, statistics, text.

The target and the drafter of the embedded pair are replaced by ones that only look up a
known text, so what is left of a round is Python and the few small arrays of the choice.
`--parts` runs everything again under a profiler and divides the time among modules.

    python -m benchmarks.host_time --parts
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import mlx.core as mx

import dflash_mlx
from dflash_mlx.engine import stream_generate
from dflash_mlx.loading import load
from dflash_mlx.pair import Pair
from tests.equipment.scripted import Script

PACKAGE = Path(dflash_mlx.__file__).parent
MODES = {"plain": {"speculate": False}, "fixed 8": {"block_size": 8}, "auto": {}}
# Correct drafts of a block, in turn: 4.0 tokens per round.
CORRECT = (7, 3, 0, 2)


def free_pair(text: list[int]) -> tuple[Pair, object]:
    """A pair whose models cost nothing, and its tokenizer.

    Args:
        text: The token ids that the target chooses, prompt included.
    """
    pair, tokenizer = load("tiny", calibration=False)
    target = pair.target
    # Row i has its largest logit at the token after text[i].
    logits = mx.zeros((len(text), target.vocab_size), mx.bfloat16)
    following = mx.array([*text[1:], 0])[:, None]
    logits = mx.put_along_axis(logits, following, mx.array(9.0), axis=-1)[None]
    features, row = mx.zeros((1, 1, 1)), 0
    mx.eval(logits, features)

    def make_cache(max_kv_size=None):
        nonlocal row
        row = 0
        return []

    def forward(tokens, cache, taps=()):
        nonlocal row
        n = tokens.shape[1]
        row += n
        rows = logits[:, row - n : row]
        return rows, mx.broadcast_to(features, (1, n, 1))

    def verify(tokens, cache, taps=()):
        return *forward(tokens, cache, taps), None

    def commit(cache, tape, width, keep):
        nonlocal row
        row -= width - keep

    target.make_cache, target.forward = make_cache, forward
    target.verify, target.commit = verify, commit
    script = Script(text, CORRECT, vocab=target.vocab_size)
    return Pair(target, script), tokenizer


def measure(pair: Pair, tokenizer, prompt: list[int], tokens: int, options: dict):
    """Seconds of the rounds of an answer, the prefill left out, and their number."""
    pair.drafter.rounds = 0
    answer = stream_generate(pair, tokenizer, prompt, max_tokens=tokens, **options)
    stats, start = next(answer).stats, time.perf_counter()
    for _ in answer:
        pass
    return time.perf_counter() - start, stats.rounds


def parts(profile: cProfile.Profile) -> Counter:
    """Shares of a profile's time by module."""
    found = Counter()
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        path = Path(file)
        ours = path.is_relative_to(PACKAGE)
        name = str(path.relative_to(PACKAGE)) if ours else "Python and libraries"
        found[name] += own
    total = sum(found.values())
    return Counter({name: own / total for name, own in found.items()})


def main() -> None:
    """Print a table of modes and, on request, one of parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=100, help="tokens of the prompt")
    parser.add_argument("--parts", action="store_true", help="divide among modules")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    draw = random.Random(0)
    length = options.prompt + options.tokens + 8
    text = [draw.randrange(10, 500) for _ in range(length)]
    pair, tokenizer = free_pair(text)
    tokenizer.eos_token_ids = set()
    prompt, arguments = text[: options.prompt], (options.tokens,)
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    rounds = {}
    for repeat in range(options.repeats + 1):
        for mode, chosen in MODES.items():
            seconds, rounds[mode] = measure(pair, tokenizer, prompt, *arguments, chosen)
            if repeat:  # the first repeat is a warm-up
                found[mode].append(1000 * seconds / rounds[mode])
    print("| mode | rounds | tokens per round | ms per round |\n|---|--:|--:|--:|")
    for mode, times in found.items():
        ratio = (options.tokens - 1) / rounds[mode]
        middle = statistics.median(times)
        print(f"| {mode} | {rounds[mode]} | {ratio:.1f} | {middle:.3f} |")
    for mode, chosen in MODES.items() if options.parts else ():
        profile, middle = cProfile.Profile(), statistics.median(found[mode])
        with profile:
            measure(pair, tokenizer, prompt, *arguments, chosen)
        print(f"\n{mode}, milliseconds per round:")
        for name, share in parts(profile).most_common(12):
            print(f"  {middle * share:.3f}  {name}")


if __name__ == "__main__":
    main()
