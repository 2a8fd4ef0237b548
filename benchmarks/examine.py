"""Which of mlx-lm's architectures the loop runs on, found out by running it.

Owns the examination of one tiny random model, and the table of all of them that the
package carries. Run `python -m benchmarks.examine` to make the table anew.
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

PLAN = (2, 0, 5, 1, 99, 3)
ROWS = 8
# A text in which two logits come nearer than this proves nothing about a cache.
MARGIN = 1e-4
# What an order of additions may change in a float32 logit, and no more.
CLOSE = 1e-3
# A text of fewer different tokens goes round in circles.
VARIETY = 10


def examine(name: str, tokens: int = 60) -> Family | None:
    """Build an architecture and run everything on it; None if it is no model.

    Raises:
        AssertionError: Something that should be equal is not: a bug.
    """
    try:
        model = architectures.build(name)
        if model is None:
            return None
        prompt = some_prompt(24)
        plain = greedy(model, prompt, tokens)
    except (Exception, SystemExit) as error:  # whatever a model file may do
        return Family(name, "", UNKNOWN, reason=one_line(error))
    rounds = decode(Pair.of(model), prompt, max_tokens=tokens)
    said = [token for round in rounds for token in round.tokens]
    assert said == plain, f"{name}: plain decoding is not mlx-lm's"
    caches = kinds_of(Target(model).make_cache())
    try:
        target = Pair.of(model, Script(prompt, PLAN)).target
    except DFlashError as error:
        return Family(name, caches, PLAIN, reason=error.message)
    check_verify(target)
    difference = block_against_rows(target, prompt)
    assert difference < CLOSE, f"{name}: a block's logits are off by {difference}"
    prompt, answer = text_for(model, tokens)
    check_loop(Pair.of(model, Script(prompt + answer, PLAN)), prompt, answer)
    return Family(name, caches, DRAFTS, difference)


def greedy(model: nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """mlx-lm's own greedy answer."""
    steps = generate_step(mx.array(prompt), model, max_tokens=tokens)
    return [token for token, _ in steps]


def text_for(
    model: nn.Module, tokens: int, margin: float = MARGIN
) -> tuple[list[int], list[int]]:
    """A prompt and mlx-lm's greedy answer to it, without a choice closer than
    `margin` (of two logits)."""
    for seed in range(50):
        prompt = some_prompt(24, seed)
        steps = list(generate_step(mx.array(prompt), model, max_tokens=tokens))
        answer = [token for token, _ in steps]
        best = mx.topk(mx.stack([logprobs for _, logprobs in steps]), 2, axis=-1)
        closest = mx.abs(best[:, 1] - best[:, 0]).min().item()
        if closest >= margin and len(set(answer)) > VARIETY:
            return prompt, answer
    raise RuntimeError(f"no prompt gives {tokens} tokens without a close choice")


def some_prompt(length: int, seed: int = 5) -> list[int]:
    """Random ids."""
    key = mx.random.key(seed)
    return mx.random.randint(1, architectures.VOCAB - 1, (length,), key=key).tolist()


def kinds_of(cache: list[Any]) -> str:
    """Kinds of cache in the order of the layers, with their numbers."""
    counts = Counter(type(entry).__name__ for entry in flat(cache))
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())


def check_verify(target: Target) -> None:
    """A block's pass is mlx-lm's own forward of the same rows, bit for bit."""
    ours, theirs = target.make_cache(), target.make_cache()
    taps = (0, target.num_layers - 1)
    for rows in (24, ROWS, ROWS):
        tokens = mx.array([some_prompt(rows, rows)])
        logits, features, _ = target.verify(tokens, ours, taps)
        assert mx.array_equal(logits, target.model(tokens, cache=theirs))
        assert features.shape[-1] == 2 * target.hidden_size
        assert same(ours, theirs) == 0


def block_against_rows(target: Target, prompt: list[int]) -> float:
    """Largest difference of logits, block's pass against single rows."""
    block, rows = target.make_cache(), target.make_cache()
    worst = 0.0
    ids = mx.array([prompt])
    for cache in (block, rows):
        target.forward(ids, cache)
    for at in range(3):
        tokens = mx.array([some_prompt(ROWS, at)])
        whole, _ = target.forward(tokens, block)
        parts = [target.forward(tokens[:, i : i + 1], rows)[0] for i in range(ROWS)]
        worst = max(worst, gap(whole, mx.concatenate(parts, axis=1)))
    return worst


@dataclass(frozen=True)
class Progress:
    """How a decoding went beside one-row passes over the same text.

    Args:
        cache: Largest relative difference of the caches, after any commit.
        regret: How far below the best logit of the one-row pass a token was.
        partings: How often the text left mlx-lm's and was followed from there.
    """

    cache: float
    regret: float
    partings: int


def check_loop(
    pair: Pair, prompt: list[int], answer: list[int], slack: float = 0.0
) -> Progress:
    """Decode with the pair's script, beside one-row passes over the same text.

    Args:
        pair: A target and a Script of `prompt` and `answer`.
        prompt, answer: mlx-lm's greedy text.
        slack: How far below the best logit of the one-row pass a token may be; with
            0 the text must be mlx-lm's.

    Raises:
        AssertionError: A token is worse than that.
    """
    beside = OneRow(pair.target, prompt)
    cache = PromptCache(pair)
    said: list[int] = []
    worst, partings, total = 0.0, 0, len(answer)
    options = {"max_tokens": total, "block_size": pair.drafter.block_size}
    for round in decode(pair, prompt, prompt_cache=cache, **options):
        said += round.tokens
        worst = max(worst, beside.follow(prompt + said, cache))
        if said != answer[: len(said)]:
            assert slack and beside.regret <= slack, f"token {len(said)} differs"
            partings += 1
            rest = greedy(pair.model, prompt + said, total - len(said) + ROWS)
            answer = said + rest
            pair.drafter.text = prompt + answer
    assert len(said) == total
    return Progress(worst, beside.regret, partings)


class OneRow:
    """One-row passes over a text as it grows.

    Args:
        target: Whose passes.
        prompt: The text's beginning, passed as mlx-lm does.
    """

    def __init__(self, target: Target, prompt: list[int]):
        self.target, self.regret = target, 0.0
        self.cache = target.make_cache()
        self.fed = len(prompt) - 1
        target.forward(mx.array([prompt[:-1]]), self.cache)

    def follow(self, text: list[int], cache: PromptCache) -> float:
        """Pass the rows that `cache` holds; return the caches' largest difference."""
        while self.fed < len(cache.tokens):
            row = mx.array([text[self.fed : self.fed + 1]])
            logits = self.target.forward(row, self.cache)[0][0, 0]
            self.fed += 1
            lost = (logits.max() - logits[text[self.fed]]).item()
            self.regret = max(self.regret, lost)
        return same(cache.target, self.cache)


def same(ours: list[Any], theirs: list[Any]) -> float:
    """Largest difference between two caches that hold the same rows, relative to the
    largest value of the array that it is in."""
    pairs = zip(contents(ours), contents(theirs), strict=True)
    return max(gap(a, b) / max(mx.abs(b).max().item(), 1e-30) for a, b in pairs)


def contents(cache: list[Any]) -> Iterator[mx.array]:
    """What a cache holds, in temporal order and without dead rows."""
    for entry in flat(cache):
        if entry in rollback.recurrent([entry]):
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


def gap(a: mx.array, b: mx.array) -> float:
    """Largest absolute difference; 0 only where all bits are equal."""
    if mx.array_equal(a, b):
        return 0.0
    apart = mx.abs(a.astype(mx.float32) - b.astype(mx.float32))
    difference = mx.where(a == b, 0, apart).max().item()  # masked ids are -inf
    assert not isnan(difference)
    return difference or 1e-45


def one_line(error: BaseException) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:100]


def examine_all(names: list[str]) -> Iterator[Family]:
    """Examine architectures in a process of their own: one may bring it down."""
    left = list(names)
    while left:
        command = [sys.executable, "-m", "benchmarks.examine", "--only", *left]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                if line.startswith(MARK):
                    name, found = json.loads(line.removeprefix(MARK))
                    left.remove(name)
                    if found:
                        yield Family(**found)
        if child.returncode > 0:
            raise RuntimeError(f"the examination of {left[0]} failed: see above")
        if left:
            reason = f"the process died of signal {-child.returncode}"
            yield Family(left.pop(0), "", UNKNOWN, reason=reason)


MARK = "examined: "
ROOT = Path(__file__).parent.parent
TABLE = ROOT / "dflash_mlx" / "hub" / "architectures.toml"
README = ROOT / "README.md"


def versions() -> str:
    """What the table holds for."""
    return f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}"


def as_toml(families: list[Family]) -> str:
    """The table as the package carries it."""
    lines = [
        "# Written by `python -m benchmarks.examine`.",
        f"versions = {json.dumps(versions())}",
    ]
    for family in families:
        lines += ["", "[[family]]"]
        lines += [f"{key} = {json.dumps(v)}" for key, v in asdict(family).items()]
    return "\n".join(lines) + "\n"


def as_markdown(families: list[Family]) -> str:
    """The table as the README shows it."""

    def names(chosen):
        return ", ".join(f.name for f in chosen)

    def reasons(verdict):
        chosen = [f for f in families if f.verdict == verdict]
        return "; ".join(f"{f.name} ({f.reason.rstrip('.')})" for f in chosen)

    close = [f for f in families if f.verdict == DRAFTS and not f.exact]
    worst = max(f.difference for f in close)
    return "\n".join(
        [
            f"| found with {versions()} | architectures |",
            "|---|---|",
            "| draft; a block's pass gives the bits of single rows | "
            f"{names(f for f in families if f.exact)} |",
            f"| draft; logits differ by {worst:.0e} at most (float32) | "
            f"{names(close)} |",
            f"| decode plainly, with the reason | {reasons(PLAIN)} |",
            f"| did not run where this was examined | {reasons(UNKNOWN)} |",
        ]
    )


def with_section(page: str, text: str) -> str:
    """A page with its section of families replaced."""
    start, end = "<!-- families -->", "<!-- end of families -->"
    before, rest = page.split(start)
    after = rest.split(end)[1]  # a page without the marks is not written over
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    """Examine everything and write the table, or report on a few."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="report on these; write nothing")
    only = parser.parse_args().only
    for name in only or ():
        found = examine(name)
        line = json.dumps([name, asdict(found) if found else None])
        print(MARK + line, flush=True)
    if only:
        return
    families = []
    for family in examine_all(architectures.names()):
        families.append(family)
        print(f"{family.name:24} {family.verdict:14} {family.reason}", flush=True)
    TABLE.write_text(as_toml(families))
    README.write_text(with_section(README.read_text(), as_markdown(families)))


if __name__ == "__main__":
    main()
