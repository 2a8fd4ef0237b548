"""`make demo`: the embedded pair answers three prompts, plain and with DFlash."""

from __future__ import annotations

from ..device import describe
from ..engine import GenerationResponse, stream_generate
from ..loading import load
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


def main() -> None:
    """Print the answers and the speed of both engines."""
    pair, tokenizer = load("tiny")
    machine = describe()
    print(
        f"tiny on {machine['processor']}, {machine['device']}, mlx {machine['mlx']}, "
        f"mlx-lm {machine['mlx_lm']}"
    )
    for prompt in PROMPTS:
        ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
        for speculate in (False, True):  # warm up both engines
            answer(pair, tokenizer, ids, speculate)
        plain_tokens, _, plain = answer(pair, tokenizer, ids, False)
        tokens, text, drafted = answer(pair, tokenizer, ids, True)
        print(f"\n> {prompt}\n{text}")
        print(
            f"plain {plain.generation_tps:.0f} tokens/s, "
            f"DFlash {drafted.generation_tps:.0f} tokens/s, "
            f"{drafted.stats.tokens_per_round:.2f} tokens per round, outputs "
            f"{'identical' if tokens == plain_tokens else 'DIFFERENT'}"
        )


if __name__ == "__main__":
    main()
