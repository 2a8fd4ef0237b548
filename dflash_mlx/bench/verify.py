"""`verify`: compare drafted text with plain decoding on this machine, greedily.

Owns the comparison (first difference, margin, verdict) and its output. Does not know
how rounds are drafted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

import mlx.core as mx
import typer
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ..decoding.loop import decode
from ..device import describe
from ..pair import Pair
from ..text.chat_template import apply_template

PROMPTS = (
    "What is 48 + 76?",
    "Count from 1 to 30.",
    "Write a Python function add_lemon that returns the sum of a and b.",
    "Write the 7 times table up to 10.",
)
# After some dozens of layers, another order of additions can change which of two logits
# is larger if their difference, relative to the larger one, is below this.
NEAR_TIE = {mx.float32: 1e-4, mx.float16: 4e-3, mx.bfloat16: 2e-2}


@dataclass(frozen=True)
class Comparison:
    """The result for one prompt.

    Args:
        prompt: Text of the prompt.
        tokens: Number of tokens compared.
        first_difference: Index of the first token that differs, or None.
        margin: Difference between plain decoding's two best logits there.
        verdict: "identical", "near tie" or "different".
        bits: All compared logits are equal bit for bit.
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
    """Decode a prompt plainly and with drafts, up to the first difference.

    Args:
        pair: A pair with a drafter.
        ids: Token ids of the prompt.
        prompt: Text of the prompt, for the result.
        stop_ids: Token ids that end the text.
        max_tokens: Maximum number of tokens to compare.
        block_size: Rows of a block; None takes the drafter's.
    """
    options = {"max_tokens": max_tokens, "stop_ids": stop_ids}
    plain = tokens_with_logits(decode(pair, ids, speculate=False, **options))
    # A fixed width, because the engine's own choice might be plain decoding.
    width = block_size or pair.drafter.block_size
    drafted = tokens_with_logits(decode(pair, ids, block_size=width, **options))
    at, bits = 0, True
    for want, got in zip_longest(plain, drafted):
        if want is None or got is None:  # one text ended
            return Comparison(prompt, at, at, None, "different", bits)
        bits = bits and mx.array_equal(want[1], got[1], equal_nan=True).item()
        if want[0] != got[0]:
            gap, tie = margin(want[1])
            verdict = "near tie" if tie else "different"
            return Comparison(prompt, at + 1, at, gap, verdict, bits)
        at += 1
    return Comparison(prompt, at, None, None, "identical", bits)


def compare_all(
    pair: Pair,
    tokenizer: TokenizerWrapper,
    prompts: Sequence[str] | None = None,
    max_tokens: int = 256,
    block_size: int | None = None,
) -> Iterator[Comparison]:
    """Compare on several prompts, one result at a time.

    Args:
        pair: A pair with a drafter.
        tokenizer: The target's.
        prompts: User messages; None takes PROMPTS.
        max_tokens, block_size: As in `compare`.
    """
    for prompt in prompts or PROMPTS:
        ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
        yield compare(
            pair, ids, prompt, tokenizer.eos_token_ids, max_tokens, block_size
        )


def margin(logits: mx.array) -> tuple[float, bool]:
    """The difference of the two best of logits [V], and whether it is a near tie."""
    second, best = mx.sort(logits.astype(mx.float32))[-2:].tolist()
    return best - second, best - second <= abs(best) * NEAR_TIE[logits.dtype]


def tokens_with_logits(rounds) -> Iterator[tuple[int, mx.array]]:
    """Each token with the logits [V] from which it was chosen."""
    for round in rounds:
        for i, token in enumerate(round.tokens):
            yield token, round.logits[i]


def run(
    pair: Pair,
    tokenizer: TokenizerWrapper,
    prompts: list[str] | None,
    *,
    kernels: str,
    block_size: int | None,
    max_tokens: int,
    as_json: bool,
) -> None:
    """Compare on `prompts`, and print the results.

    Args:
        pair, tokenizer, prompts: As in `compare_all`.
        kernels: The mode that the pair was loaded with.
        block_size, max_tokens: As in `compare`.
        as_json: Print one JSON object.

    Raises:
        typer.Exit: With 1 if a text differs by more than a near tie, or if kernels are
            exact and any logits differ.
    """
    pair.require_drafter()
    results = []
    for result in compare_all(pair, tokenizer, prompts, max_tokens, block_size):
        results.append(result)
        if not as_json:
            print(one_line(result))
    print(as_json_line(results, kernels) if as_json else summary(results))
    if not is_right(results, kernels):
        raise typer.Exit(1)


def is_right(results: Sequence[Comparison], kernels: str) -> bool:
    """Whether no text differs by more than a near tie and, if kernels are exact, all
    logits are equal bit for bit."""
    if any(result.verdict == "different" for result in results):
        return False
    return kernels != "exact" or all(result.bits for result in results)


def as_json_line(results: list[Comparison], kernels: str) -> str:
    """All results and the machine as one JSON object."""
    report = {
        "results": [asdict(result) for result in results],
        "identical": all(result.verdict == "identical" for result in results),
        "bits": all(result.bits for result in results),
        "kernels": kernels,
    }
    return json.dumps(report | describe())


def summary(results: list[Comparison]) -> str:
    """The last line for people."""
    identical = sum(result.verdict == "identical" for result in results)
    equal_bits = all(result.bits for result in results)
    return (
        f"{identical} of {len(results)} answers are identical to plain decoding. The "
        f"logits are {'' if equal_bits else 'not '}equal bit for bit."
    )


def one_line(result: Comparison) -> str:
    """A result for people."""
    head = f"{result.verdict}: {result.prompt!r}, {result.tokens} tokens"
    if result.first_difference is None:
        return head
    margin = "" if result.margin is None else f", margin {result.margin:.3g}"
    return f"{head}, first difference at token {result.first_difference}{margin}"
