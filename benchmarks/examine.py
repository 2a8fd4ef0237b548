"""Examine which of mlx-lm's architectures can draft, with tiny random models.

Owns the checks of one model, and the table of all architectures, which it writes into
the package (architectures.toml) and into docs/architectures.md. Does not know how the
tiny models are configured (tests/equipment/architectures.py).

    python -m benchmarks.examine [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isnan
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import ChunkedKVCache, RotatingKVCache

from dflash_mlx.cache import rollback
from dflash_mlx.cache.kinds import flat
from dflash_mlx.cache.prompt_cache import PromptCache
from dflash_mlx.decoding.loop import decode
from dflash_mlx.errors import DFlashError
from dflash_mlx.hub.architectures import (
    DRAFTS,
    PLAIN,
    UNKNOWN,
    Family,
)
from dflash_mlx.models.targets.base import Target
from dflash_mlx.pair import Pair
from tests.equipment import architectures
from tests.equipment.scripted import Script

# Correct drafts per round of the scripted drafter, in blocks of ROWS rows.
PLAN = (2, 0, 5, 1, 99, 3)
ROWS = 8
# Texts whose two best logits come closer than this cannot test a cache.
MARGIN = 1e-4
# The most that another order of additions changes a float32 logit.
MAX_DIFFERENCE = 1e-3
# A text with fewer distinct tokens repeats itself.
MIN_DISTINCT = 10

# Starts the line in which a child process reports an architecture.
EXAMINED = "examined: "
ROOT = Path(__file__).parent.parent
TABLE = ROOT / "dflash_mlx" / "hub" / "architectures.toml"
PAGE = ROOT / "docs" / "architectures.md"


def examine(name: str, tokens: int = 60) -> Family | None:
    """Build an architecture and run every check on it.

    Args:
        name: A module of mlx_lm.models.
        tokens: Length of the decoded texts.

    Returns:
        The result; None if the module holds no model.

    Raises:
        AssertionError: Two results that must be equal differ: a bug.
    """
    try:
        model = architectures.build(name)
        if model is None:
            return None
        prompt = some_prompt(24)
        expected = greedy(model, prompt, tokens)
    except (Exception, SystemExit) as error:  # a model file may raise anything
        return Family(name, "", UNKNOWN, reason=one_line(error))
    rounds = decode(Pair.of(model), prompt, max_tokens=tokens)
    produced = [token for round in rounds for token in round.tokens]
    assert produced == expected, f"{name}: plain decoding differs from mlx-lm"
    caches = describe_caches(Target(model).make_cache())
    try:
        target = Pair.of(model, Script(prompt, PLAN)).target
    except DFlashError as error:
        return Family(name, caches, PLAIN, reason=error.message)
    check_verify(target)
    difference = block_against_rows(target, prompt)
    assert difference < MAX_DIFFERENCE, f"{name}: block logits differ by {difference}"
    prompt, answer = text_without_near_ties(model, tokens)
    check_loop(Pair.of(model, Script(prompt + answer, PLAN)), prompt, answer)
    return Family(name, caches, DRAFTS, difference)


def greedy(model: nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """mlx-lm's greedy answer."""
    steps = generate_step(mx.array(prompt), model, max_tokens=tokens)
    return [token for token, _ in steps]


def text_without_near_ties(
    model: nn.Module, tokens: int, margin: float = MARGIN
) -> tuple[list[int], list[int]]:
    """A prompt and mlx-lm's greedy answer to it, in which the two best logits of every
    token are at least `margin` apart."""
    for seed in range(50):
        prompt = some_prompt(24, seed)
        steps = list(generate_step(mx.array(prompt), model, max_tokens=tokens))
        answer = [token for token, _ in steps]
        best = mx.topk(mx.stack([logprobs for _, logprobs in steps]), 2, axis=-1)
        closest = mx.abs(best[:, 1] - best[:, 0]).min().item()
        if closest >= margin and len(set(answer)) > MIN_DISTINCT:
            return prompt, answer
    raise RuntimeError(f"no prompt gives {tokens} tokens without a near tie")


def some_prompt(length: int, seed: int = 5) -> list[int]:
    """Random token ids."""
    key = mx.random.key(seed)
    return mx.random.randint(1, architectures.VOCAB - 1, (length,), key=key).tolist()


def describe_caches(cache: list[Any]) -> str:
    """The kinds of cache in the order of the layers, with the number of each."""
    counts = Counter(type(entry).__name__ for entry in flat(cache))
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())


def check_verify(target: Target) -> None:
    """Assert that a verify pass equals mlx-lm's own pass bit for bit."""
    ours, theirs = target.make_cache(), target.make_cache()
    taps = (0, target.num_layers - 1)
    for rows in (24, ROWS, ROWS):
        tokens = mx.array([some_prompt(rows, rows)])
        logits, features, _ = target.verify(tokens, ours, taps)
        assert mx.array_equal(logits, target.model(tokens, cache=theirs))
        assert features.shape[-1] == 2 * target.hidden_size
        assert cache_difference(ours, theirs) == 0


def block_against_rows(target: Target, prompt: list[int]) -> float:
    """The largest difference between logits of passes over blocks and over one row."""
    block, rows = target.make_cache(), target.make_cache()
    worst = 0.0
    ids = mx.array([prompt])
    for cache in (block, rows):
        target.forward(ids, cache)
    for at in range(3):
        tokens = mx.array([some_prompt(ROWS, at)])
        whole, _ = target.forward(tokens, block)
        parts = [target.forward(tokens[:, i : i + 1], rows)[0] for i in range(ROWS)]
        worst = max(worst, max_difference(whole, mx.concatenate(parts, axis=1)))
    return worst


@dataclass(frozen=True)
class LoopCheck:
    """Decoding with drafts, compared with one-row passes over the same text.

    Args:
        cache: Largest relative difference of the caches after a commit.
        regret: The largest distance between a token's logit and the best logit of the
            one-row pass.
        departures: Number of times the text left mlx-lm's.
    """

    cache: float
    regret: float
    departures: int


def check_loop(
    pair: Pair, prompt: list[int], answer: list[int], slack: float = 0.0
) -> LoopCheck:
    """Decode with a scripted drafter, and compare with one-row passes after each round.

    Where the text leaves mlx-lm's, mlx-lm continues the new text as the reference.

    Args:
        pair: A target and a Script of `prompt` and `answer`.
        prompt, answer: mlx-lm's greedy text.
        slack: The largest regret allowed; with 0 the text must equal mlx-lm's.

    Raises:
        AssertionError: The text differs by more than that.
    """
    reference = OneRowPasses(pair.target, prompt)
    cache = PromptCache(pair)
    produced: list[int] = []
    worst, departures, total = 0.0, 0, len(answer)
    options = {"max_tokens": total, "block_size": pair.drafter.block_size}
    for round in decode(pair, prompt, prompt_cache=cache, **options):
        produced += round.tokens
        worst = max(worst, reference.follow(prompt + produced, cache))
        if produced != answer[: len(produced)]:
            within_slack = slack and reference.regret <= slack
            assert within_slack, f"token {len(produced)} differs"
            departures += 1
            missing = total - len(produced) + ROWS
            answer = produced + greedy(pair.model, prompt + produced, missing)
            pair.drafter.text = prompt + answer
    assert len(produced) == total
    return LoopCheck(worst, reference.regret, departures)


class OneRowPasses:
    """One-row passes over a text while it grows.

    Args:
        target: The target that runs the passes.
        prompt: The beginning of the text; all but its last token are passed at once,
            as in mlx-lm.
    """

    def __init__(self, target: Target, prompt: list[int]):
        self.target, self.regret = target, 0.0
        self.cache = target.make_cache()
        self.passed = len(prompt) - 1
        target.forward(mx.array([prompt[:-1]]), self.cache)

    def follow(self, text: list[int], cache: PromptCache) -> float:
        """Pass the rows that `cache` holds; return the caches' largest difference."""
        while self.passed < len(cache.tokens):
            row = mx.array([text[self.passed : self.passed + 1]])
            logits = self.target.forward(row, self.cache)[0][0, 0]
            self.passed += 1
            regret = (logits.max() - logits[text[self.passed]]).item()
            self.regret = max(self.regret, regret)
        return cache_difference(cache.target, self.cache)


def cache_difference(ours: list[Any], theirs: list[Any]) -> float:
    """The largest difference between two caches of the same rows, relative to the
    largest value of the array in which it occurs."""
    worst = 0.0
    for a, b in zip(cached_arrays(ours), cached_arrays(theirs), strict=True):
        largest = max(mx.abs(b).max().item(), 1e-30)
        worst = max(worst, max_difference(a, b) / largest)
    return worst


def cached_arrays(cache: list[Any]) -> Iterator[mx.array]:
    """The arrays of a cache, rows in temporal order, without overwritten rows."""
    for entry in flat(cache):
        if entry in rollback.recurrent_entries([entry]):
            yield from (array for array in entry.cache if array is not None)
            continue
        keys, values = entry.keys_and_values()
        if type(entry) is RotatingKVCache:
            rows = min(entry.offset, entry.max_size)
            keys, values = (
                entry._temporal_order(x)[..., -rows:, :]
                for x in (entry.keys, entry.values)
            )
        elif type(entry) is ChunkedKVCache:
            rows = min(entry.offset, entry.chunk_size)
            keys, values = keys[..., -rows:, :], values[..., -rows:, :]
        for rows in (keys, values):
            yield from rows if isinstance(rows, tuple | list) else [rows]


def max_difference(a: mx.array, b: mx.array) -> float:
    """The largest absolute difference; 0 only if all bits are equal."""
    if mx.array_equal(a, b):
        return 0.0
    difference = mx.abs(a.astype(mx.float32) - b.astype(mx.float32))
    largest = mx.where(a == b, 0, difference).max().item()  # masked ids are -inf
    assert not isnan(largest)
    return largest or 1e-45


def one_line(error: BaseException) -> str:
    """The first line of an error, at most 100 characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]


def examine_all(names: list[str]) -> Iterator[Family]:
    """Examine architectures in a child process, because a model file can crash it.

    Raises:
        RuntimeError: An examination failed.
    """
    left = list(names)
    while left:
        command = [sys.executable, "-m", "benchmarks.examine", "--only", *left]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if line.startswith(EXAMINED):
                    name, found = json.loads(line.removeprefix(EXAMINED))
                    left.remove(name)
                    if found:
                        yield Family(**found)
        if child.returncode > 0:
            raise RuntimeError(f"the examination of {left[0]} failed: see above")
        if left:
            reason = f"the process died of signal {-child.returncode}"
            yield Family(left.pop(0), "", UNKNOWN, reason=reason)


def versions() -> str:
    """The versions that the table is valid for."""
    return f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}"


def as_toml(families: list[Family]) -> str:
    """The table for the package."""
    lines = [
        "# Written by `python -m benchmarks.examine`.",
        f"versions = {json.dumps(versions())}",
    ]
    for family in families:
        lines += ["", "[[family]]"]
        lines += [f"{key} = {json.dumps(v)}" for key, v in asdict(family).items()]
    return "\n".join(lines) + "\n"


def as_markdown(families: list[Family]) -> str:
    """The table for docs/architectures.md."""

    def names(chosen):
        return ", ".join(f.name for f in chosen)

    def reasons(verdict):
        chosen = [f for f in families if f.verdict == verdict]
        return "; ".join(f"{f.name} ({f.reason.rstrip('.')})" for f in chosen)

    close = [f for f in families if f.verdict == DRAFTS and not f.exact]
    worst = max(f.difference for f in close)
    return "\n".join(
        [
            f"| result with {versions()} | architectures |",
            "|---|---|",
            "| drafts; a pass over a block equals passes over one row bit for bit | "
            f"{names(f for f in families if f.exact)} |",
            f"| drafts; logits differ by at most {worst:.0e} (float32) | "
            f"{names(close)} |",
            f"| plain decoding only, with the reason | {reasons(PLAIN)} |",
            "| not examined: does not run on the machine that made this table | "
            f"{reasons(UNKNOWN)} |",
        ]
    )


def with_table(page: str, table: str) -> str:
    """A page with the text between its marks replaced by a table.

    Raises:
        ValueError: The page has no marks.
    """
    start, end = "<!-- families -->", "<!-- end of families -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{table}\n{end}{after}"


def main() -> None:
    """Examine all architectures and write the table, or report on some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="report on these, and write nothing"
    )
    only = parser.parse_args().only
    for name in only or ():
        found = examine(name)
        line = json.dumps([name, asdict(found) if found else None])
        print(EXAMINED + line, flush=True)
    if only:
        return
    families = []
    for family in examine_all(architectures.names()):
        families.append(family)
        print(f"{family.name:24} {family.verdict:14} {family.reason}", flush=True)
    TABLE.write_text(as_toml(families))
    PAGE.write_text(with_table(PAGE.read_text(), as_markdown(families)))


if __name__ == "__main__":
    main()
