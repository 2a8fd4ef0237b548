"""Measure drafts of several texts in one pass against one text after the other.

The embedded pair at the size of a known model (`--shape`) drafts for texts with random
contexts. A round adds the features of some committed rows to each text's context and
drafts a block for each. Both ways draft the same blocks, in turn.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 \\
        python -m benchmarks.draft_together
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from importlib.metadata import version

import mlx.core as mx

from dflash_mlx.bench.shapes import load_shape
from dflash_mlx.models.drafters.batched import extend_many, propose_many
from dflash_mlx.models.drafters.dflash import DFlash

TOKENS = 5  # rows that a round adds to each context


class Texts:
    """Contexts of several texts, each with another number of rows.

    Args:
        drafter: Of all texts.
        count: The number of texts.
        context: Rows of the longest context; the shortest has half of them.
        width: Rows of each block.
    """

    def __init__(self, drafter: DFlash, count: int, context: int, width: int):
        self.drafter, self.width = drafter, width
        self.caches = [drafter.make_cache() for _ in range(count)]
        self.anchors = [mx.array([5 + i], mx.uint32) for i in range(count)]
        hidden = drafter.config.target_hidden_size or drafter.config.hidden_size
        size = len(drafter.taps) * hidden
        for i, cache in enumerate(self.caches):
            rows = context - i * context // (2 * count)
            drafter.extend(mx.random.normal((1, rows, size)), cache)
        self.features = mx.random.normal((1, TOKENS, size))
        mx.eval(self.features, self.contexts(self.caches))

    def contexts(self, caches) -> list[mx.array]:
        """The arrays of some contexts."""
        return [a for cache in caches for entry in cache for a in entry.arrays()]

    def together(self) -> float:
        """Seconds of a round of all texts in one pass."""
        return self._round(self.caches, self.anchors)

    def in_turn(self) -> float:
        """Seconds of a round of one text after the other."""
        each = zip(self.caches, self.anchors, strict=True)
        return sum(self._round([cache], [anchor]) for cache, anchor in each)

    def _round(self, caches, anchors):
        n, start = len(caches), time.perf_counter()
        extend_many(self.drafter, [self.features] * n, caches)
        drafts = propose_many(
            self.drafter, anchors, caches, [self.width] * n, [best] * n
        )
        mx.eval([ids for ids, _ in drafts], self.contexts(caches))
        return time.perf_counter() - start


def best(logits, slots, ids=None):
    """Choose the best token of each slot."""
    return mx.argmax(logits, axis=-1)


def main() -> None:
    """Print a table: milliseconds of a round by number of texts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="race")
    parser.add_argument("--texts", default="1,2,4,8")
    parser.add_argument("--rows", type=int, default=8, help="rows of a block")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    pair, _ = load_shape(options.shape)
    print(
        "| texts | one after the other, ms | range | in one pass, ms | range | ratio |"
    )
    print("|--:|--:|--:|--:|--:|--:|")
    for count in map(int, options.texts.split(",")):
        texts = Texts(pair.drafter, count, options.context, options.rows)
        found: dict = {texts.in_turn: [], texts.together: []}
        for i in range(options.rounds + 2):
            for way, seconds in found.items():
                took = 1000 * way()
                if i > 1:  # two rounds of warm-up
                    seconds.append(took)
        middle = [statistics.median(seconds) for seconds in found.values()]
        cells = [
            f"{statistics.median(seconds):.1f} | {min(seconds):.1f}-{max(seconds):.1f}"
            for seconds in found.values()
        ]
        ratio = middle[0] / middle[1]
        print(f"| {count} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    print(f"\nPython {platform.python_version()}, {versions}, {platform.platform()}")


if __name__ == "__main__":
    main()
