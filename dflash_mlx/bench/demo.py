"""`make demo`: the embedded pair answers three prompts, plain and with DFlash."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..device import describe
from ..engine import stream_generate
from ..loading import load
from ..responses import GenerationResponse
from ..text.chat_template import apply_template

PROMPTS = (
    "What is 487 + 356?",
    "Write the 9 times table up to 12.",
    "Write a Python function multiply_river that returns the product of x and y.",
)


def answer(
    pair, tokenizer, ids, speculate
) -> tuple[list[int], str, GenerationResponse]:
    """The tokens, the text and the last response of an answer."""
    tokens, text = [], ""
    for response in stream_generate(pair, tokenizer, ids, speculate=speculate):
        tokens.append(response.token)
        text += response.text
    return tokens, text, response


@dataclass(frozen=True)
class Result:
    """One prompt's answers.

    Args:
        prompt: The prompt.
        text: The answer with drafts.
        tokens: Its number of tokens.
        plain, drafted: Seconds of the answer without drafts and with them.
        per_round: Tokens per round with drafts.
        identical: Whether both answers have the same tokens.
    """

    prompt: str
    text: str
    tokens: int
    plain: float
    drafted: float
    per_round: float
    identical: bool


def measure(pair, tokenizer, prompt: str) -> Result:
    """Answer a prompt without drafts and with them, each once unmeasured before."""
    ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
    for speculate in (False, True):
        answer(pair, tokenizer, ids, speculate)
    plain_tokens, _, plain = answer(pair, tokenizer, ids, False)
    tokens, text, drafted = answer(pair, tokenizer, ids, True)
    return Result(
        prompt,
        text,
        len(tokens),
        len(plain_tokens) / plain.generation_tps,
        len(tokens) / drafted.generation_tps,
        drafted.stats.tokens_per_round,
        tokens == plain_tokens,
    )


def verdict(results: list[Result]) -> str:
    """One sentence about all prompts together."""
    gain = sum(each.plain for each in results) / sum(each.drafted for each in results)
    tokens = sum(each.tokens for each in results)
    same = all(each.identical for each in results)
    outputs = "outputs identical" if same else "outputs DIFFERENT"
    return (
        f"All together: {tokens} tokens with DFlash at {gain:.1f} times the speed of "
        f"plain decoding, {outputs}."
    )


def main() -> None:
    """Print the answers, the speed of both engines side by side, and a verdict."""
    pair, tokenizer = load("tiny")
    machine = describe()
    print(
        f"tiny on {machine['processor']}, {machine['device']}, mlx {machine['mlx']}, "
        f"mlx-lm {machine['mlx_lm']}"
    )
    results = []
    for prompt in PROMPTS:
        results.append(measure(pair, tokenizer, prompt))
        print(f"\n> {prompt}\n{results[-1].text}")
    table = Table("prompt", box=None, pad_edge=False)
    for name in ("plain", "DFlash", "tokens per round", "outputs"):
        table.add_column(name, justify="right")
    for each in results:
        table.add_row(
            each.prompt,
            *(f"{each.tokens / s:.0f} tok/s" for s in (each.plain, each.drafted)),
            f"{each.per_round:.2f}",
            "identical" if each.identical else "DIFFERENT",
        )
    console = Console(highlight=False)
    print()
    console.print(table)
    print()
    console.print(verdict(results), soft_wrap=not console.is_terminal)


if __name__ == "__main__":
    main()
