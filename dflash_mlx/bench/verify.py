"""`verify`: does drafting say on this machine what plain decoding says?

Greedy, prompt by prompt: the first difference, the margin of plain decoding's choice
there, and what that means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest

import mlx.core as mx
import typer

from ..decoding.loop import decode
from ..device import describe
from ..loading import load
from ..pair import Pair
from ..text.chat_template import apply_template

PROMPTS = (
    "What is 48 + 76?",
    "Count from 1 to 30.",
    "Write a Python function add_lemon that returns the sum of a and b.",
    "Write the 7 times table up to 10.",
)
# A gap between the two best logits, relative to the best, that another order of
# summing can turn around after some dozens of layers.
NEAR_TIE = {mx.float32: 1e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}


@dataclass(frozen=True)
class Comparison:
    """One prompt's outcome.

    Args:
        prompt: Its text.
        tokens: Tokens compared.
        first_difference: Index of the first token that differs, or None.
        margin: Plain decoding's gap between its two best logits there.
        verdict: "identical", "near tie" or "different".
        bits: All logits compared were equal bit for bit.
    """

    prompt: str
    tokens: int
    first_difference: int | None
    margin: float | None
    verdict: str
    bits: bool


def compare(
    pair: Pair, ids: list[int], prompt: str, stop_ids, max_tokens: int, block_size
) -> Comparison:
    """Decode `ids` plainly and with drafts side by side, up to the first difference."""
    options = {"max_tokens": max_tokens, "stop_ids": stop_ids}
    plain = tokens_with_logits(decode(pair, ids, speculate=False, **options))
    # Always blocks: measurements might find that plain decoding is best here.
    width = block_size or pair.drafter.block_size
    drafted = tokens_with_logits(decode(pair, ids, block_size=width, **options))
    at, bits = 0, True
    for ours, theirs in zip_longest(plain, drafted):
        if ours is None or theirs is None:
            return Comparison(prompt, at, at, None, "different", bits)
        bits = bits and mx.array_equal(ours[1], theirs[1], equal_nan=True).item()
        if ours[0] != theirs[0]:
            gap, tie = margin(ours[1])
            verdict = "near tie" if tie else "different"
            return Comparison(prompt, at + 1, at, gap, verdict, bits)
        at += 1
    return Comparison(prompt, at, None, None, "identical", bits)


def margin(logits: mx.array) -> tuple[float, bool]:
    """The gap between the two best of logits [V], and whether it is a near tie."""
    second, best = mx.sort(logits.astype(mx.float32))[-2:].tolist()
    return best - second, best - second <= abs(best) * NEAR_TIE[logits.dtype]


def tokens_with_logits(rounds) -> Iterator[tuple[int, mx.array]]:
    """Each token with the logits [V] that it was chosen from."""
    for round in rounds:
        for i, token in enumerate(round.tokens):
            yield token, round.logits[i]


def run(
    prompts: list[str] | None,
    *,
    model: str,
    draft: str | None,
    quantize: int | None,
    draft_quantize: int | None,
    trust_remote_code: bool,
    kernels: str,
    block_size: int | None,
    max_tokens: int,
    as_json: bool,
    notice: Callable[[str], None],
) -> None:
    """Compare on `prompts` and print the outcome; exit 1 on a real difference, and
    with exact kernels on any."""
    pair, tokenizer = load(
        model,
        draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
        kernels=kernels,
        notice=notice,
    )
    pair.require_drafter()
    results = []
    for prompt in prompts or PROMPTS:
        ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
        result = compare(
            pair, ids, prompt, tokenizer.eos_token_ids, max_tokens, block_size
        )
        results.append(result)
        if not as_json:
            print(line(result))
    bad = any(result.verdict == "different" for result in results)
    equal = all(result.bits for result in results)
    bad = bad or (kernels == "exact" and not equal)
    if as_json:
        rows = [asdict(result) for result in results]
        same = all(result.verdict == "identical" for result in results)
        found = {"results": rows, "identical": same, "bits": equal, "kernels": kernels}
        print(json.dumps(found | describe()))
    else:
        same = sum(result.verdict == "identical" for result in results)
        print(
            f"{same} of {len(results)} answers identical to plain decoding; their "
            f"logits are {'' if equal else 'not '}equal bit for bit."
        )
    if bad:
        raise typer.Exit(1)


def line(result: Comparison) -> str:
    """A result in words."""
    head = f"{result.verdict}: {result.prompt!r}, {result.tokens} tokens"
    if result.first_difference is None:
        return head
    margin = "" if result.margin is None else f", margin {result.margin:.3g}"
    return f"{head}, first difference at token {result.first_difference}{margin}"
