"""Measure a pass over the rows of several texts against passes one after the other.

Both ways run in turn, over texts of different lengths, and are rolled back to the same
lengths. `--host` also prints the time in which Python builds the graph of a pass, which
is part of it.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 \
        python -m benchmarks.together --shape race
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import mlx.core as mx

from benchmarks.examine import cached_arrays, some_prompt
from benchmarks.rollback import hybrid
from dflash_mlx.bench.shapes import load_shape
from dflash_mlx.models.targets import make_target
from dflash_mlx.models.targets.base import Target

# (texts, rows of each).
CASES = "1x1,2x1,4x1,8x1,1x8,2x8,4x8,8x8"


class Texts:
    """Texts of different lengths on one target.

    Args:
        target: The target.
        taps: The layers that its drafter reads.
        texts: Their number.
        context: Rows of the shortest text; each next one has 7 more.
        clock: Returns seconds.
    """

    def __init__(
        self,
        target: Target,
        taps: tuple[int, ...],
        texts: int,
        context: int,
        clock: Callable[[], float],
    ):
        self.target, self.taps, self.clock = target, taps, clock
        self.caches = [target.make_cache() for _ in range(texts)]
        for i, cache in enumerate(self.caches):
            prompt = mx.array([some_prompt(context + 7 * i, i)])
            target.forward(prompt, cache)
            mx.eval(list(cached_arrays(cache)))

    def run(self, rows: int, together: bool) -> tuple[float, float]:
        """Seconds of passes over `rows` rows of each text, and of building them."""
        blocks = [mx.array([some_prompt(rows, i)]) for i in range(len(self.caches))]
        mx.eval(blocks)
        built, start = 0.0, self.clock()
        if together:
            found = self.target.verify_many(blocks, self.caches, self.taps)
            built = self.clock() - start
            mx.eval([outputs[:2] for outputs in found])
        else:
            found = []
            for block, cache in zip(blocks, self.caches, strict=True):
                before = self.clock()
                found.append(self.target.verify(block, cache, self.taps))
                built += self.clock() - before
                mx.eval(found[-1][:2])
        seconds = self.clock() - start
        for cache, (_, _, tape) in zip(self.caches, found, strict=True):
            self.target.commit(cache, tape, rows, 0)
        return seconds, built


def medians(times: list[tuple[float, float]]) -> list[float]:
    """The medians of pairs of seconds, in milliseconds."""
    return [1000 * statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    """Print a table: milliseconds per way of passing, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="race")
    parser.add_argument(
        "--hybrid", action="store_true", help="a random model of Qwen3.5's structure"
    )
    parser.add_argument("--cases", default=CASES, help="TEXTSxROWS, comma-separated")
    parser.add_argument("--context", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--host", action="store_true")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="this process's CPU seconds (use one thread): for a machine in use",
    )
    options = parser.parse_args()
    if options.hybrid:
        target, taps = make_target(hybrid(hidden=1024, layers=8, heads=12)), (1, 6)
    else:
        pair, _ = load_shape(options.shape)
        target, taps = pair.target, pair.drafter.taps
    cases = [tuple(map(int, case.split("x"))) for case in options.cases.split(",")]
    most = max(texts for texts, _ in cases)
    clock = time.process_time if options.cpu_time else time.perf_counter
    texts = Texts(target, taps, most, options.context, clock)
    every, times = texts.caches, {}
    for repeat in range(-1, options.repeats):  # the first one warms up
        for count, rows in cases:
            texts.caches = every[:count]
            for together in (False, True):
                seconds = texts.run(rows, together)
                if repeat >= 0:
                    times.setdefault((count, rows, together), []).append(seconds)
    print("| texts x rows | one after the other, ms | together, ms | ratio |")
    print("|---|--:|--:|--:|")
    for count, rows in cases:
        apart, joint = (medians(times[count, rows, way]) for way in (False, True))
        ratio = f"{apart[0] / joint[0]:.2f}"
        print(f"| {count} x {rows} | {apart[0]:.1f} | {joint[0]:.1f} | {ratio} |")
        if options.host:
            print(f"    of which Python: {apart[1]:.1f} and {joint[1]:.1f}")


if __name__ == "__main__":
    main()
