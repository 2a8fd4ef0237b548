"""`verify`: does drafting say on this machine what plain decoding says?

Greedy, prompt by prompt: the first difference, the margin of plain decoding's choice
there, and what that means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import mlx.core as mx
import typer

from ..device import describe
from ..engine import apply_template
from ..loading import load
from ..loop import decode
from ..pair import Pair

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
        tokens: Length of the plain answer.
        first_difference: Index of the first token that differs, or None.
        margin: Plain decoding's gap between its two best logits there.
        verdict: "identical", "near tie" or "different".
    """

    prompt: str
    tokens: int
    first_difference: int | None
    margin: float | None
    verdict: str


def compare(
    pair: Pair, ids: list[int], prompt: str, stop_ids, max_tokens: int, block_size
) -> Comparison:
    """Decode `ids` plainly and with drafts, and compare."""
    plain = list(
        tokens_with_logits(
            decode(pair, ids, max_tokens=max_tokens, stop_ids=stop_ids, speculate=False)
        )
    )
    rounds = decode(
        pair, ids, max_tokens=max_tokens, stop_ids=stop_ids, block_size=block_size
    )
    drafted = [token for round in rounds for token in round.tokens]
    pairs = enumerate(zip(plain, drafted, strict=False))
    at = next((i for i, ((token, _), other) in pairs if token != other), None)
    if at is None and len(plain) == len(drafted):
        return Comparison(prompt, len(plain), None, None, "identical")
    if at is None:
        return Comparison(
            prompt, len(plain), min(len(plain), len(drafted)), None, "different"
        )
    logits = plain[at][1]
    second, best = mx.sort(logits.astype(mx.float32))[-2:].tolist()
    tie = best - second <= abs(best) * NEAR_TIE[logits.dtype]
    verdict = "near tie" if tie else "different"
    return Comparison(prompt, len(plain), at, best - second, verdict)


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
    block_size: int | None,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Compare on `prompts` and print the outcome; exit 1 on a real difference."""
    pair, tokenizer = load(
        model,
        draft,
        quantize=quantize,
        draft_quantize=draft_quantize,
        trust_remote_code=trust_remote_code,
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
    if as_json:
        rows = [asdict(result) for result in results]
        same = all(result.verdict == "identical" for result in results)
        print(json.dumps({"results": rows, "identical": same, **describe()}))
    else:
        same = sum(result.verdict == "identical" for result in results)
        print(f"{same} of {len(results)} answers identical to plain decoding.")
    if bad:
        raise typer.Exit(1)


def line(result: Comparison) -> str:
    """A result in words."""
    head = f"{result.verdict}: {result.prompt!r}, {result.tokens} tokens"
    if result.first_difference is None:
        return head
    margin = "" if result.margin is None else f", margin {result.margin:.3g}"
    return f"{head}, first difference at token {result.first_difference}{margin}"
