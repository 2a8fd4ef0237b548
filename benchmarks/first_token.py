"""Measure the time to the first token in a growing chat, with and without a cache.

Owns the synthetic chat and its clock. The first message is long, like a pasted file;
the others are questions. The prompt of the last turn has about --context tokens.
"Warm" keeps the prompt cache of the chat. "Cold" prefills the same prompt into a new
cache, as a chat without a prompt cache does. The ratio of both is at least the share of
new tokens in the prompt.

    python -m benchmarks.first_token --shape race --context 8000 --turns 10
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from dflash_mlx.bench.shapes import load_shape
from dflash_mlx.cache.prompt_cache import PromptCache
from dflash_mlx.device import describe
from dflash_mlx.engine import stream_generate
from dflash_mlx.errors import OptionError
from dflash_mlx.loading import load
from dflash_mlx.pair import Pair
from dflash_mlx.text.chat_template import apply_template, marks
from dflash_mlx.types import require

# Text that the tiny tokenizer encodes well.
SENTENCE = "What is {} + {}? "
LAST = "What is 12 + 34?"


def measure(
    pair: Pair,
    tokenizer: Any,
    *,
    context: int = 8000,
    turns: int = 10,
    question: int = 64,
    answer: int = 16,
    cold_every: int = 1,
) -> dict[str, Any]:
    """Run a chat, and measure the time to the first token of every turn.

    Args:
        pair, tokenizer: From `load` or `load_shape`, with a chat template.
        context: Approximate number of prompt tokens in the last turn.
        turns: Number of turns.
        question: Approximate number of tokens that each turn after the first adds.
        answer: Maximum number of tokens in an answer.
        cold_every: Measure the cold prefill in every n-th turn, counted back from the
            last.

    Returns:
        "turns": a dict per turn with its number `turn`, the number of prompt `tokens`,
        the number of tokens that were prefilled (`fed`), and seconds to the first token
        (`warm` and `cold`; `cold` is None where not measured). "ratio": warm divided by
        cold in the last turn.

    Raises:
        OptionError: A number is out of range, or the context is too short.
    """
    require(turns >= 1, "turns", "1 or more", turns)
    require(cold_every >= 1, "cold_every", "1 or more", cold_every)
    require(answer >= 1, "answer", "1 or more", answer)
    first_token(pair, tokenizer, [user(LAST)], PromptCache(pair), 2)  # warm up
    cache, messages, rows = PromptCache(pair), [], []
    for turn in range(1, turns + 1):
        message = fill(tokenizer, messages, context - question * (turns - turn))
        messages.append(user(message))
        warm = first_token(pair, tokenizer, messages, cache, answer)
        row = {"turn": turn, "tokens": warm["tokens"], "fed": warm["fed"]}
        row |= {"warm": warm["seconds"], "cold": None}
        if (turns - turn) % cold_every == 0:
            fresh = first_token(pair, tokenizer, messages, PromptCache(pair), 1)
            row["cold"] = fresh["seconds"]
        rows.append(row)
        messages.append({"role": "assistant", "content": warm["text"]})
    return {"turns": rows, "ratio": rows[-1]["warm"] / rows[-1]["cold"]}


def first_token(
    pair: Pair,
    tokenizer: Any,
    messages: list[dict[str, str]],
    cache: PromptCache,
    answer: int,
) -> dict[str, Any]:
    """Answer the last message of a chat with a cache, and time the first token.

    Returns:
        "seconds": time to the first token, with the chat template. "tokens": number of
        prompt tokens. "fed": number of them that were prefilled. "text": the answer.
    """
    start = time.perf_counter()
    ids = apply_template(tokenizer, messages)
    rest = cache.reuse(ids, marks(tokenizer, messages))
    seconds, text = None, ""
    for response in stream_generate(
        pair, tokenizer, rest, max_tokens=answer, prompt_cache=cache
    ):
        seconds = seconds or time.perf_counter() - start
        text += response.text
    return {"seconds": seconds, "tokens": len(ids), "fed": len(rest), "text": text}


def fill(tokenizer: Any, messages: list[dict[str, str]], tokens: int) -> str:
    """A message that extends the prompt of a chat to about `tokens` tokens.

    Raises:
        OptionError: The prompt is longer already.
    """
    present = len(apply_template(tokenizer, [*messages, user(LAST)]))
    if present > tokens:
        raise OptionError(
            f"The prompt of a turn has {present} tokens, not {tokens} as planned.",
            "Raise --context or --question, or lower --turns.",
        )
    text, length = "", 0
    for i in range(tokens):
        sentence = SENTENCE.format(10 + i % 89, 11 + i % 83)
        length += len(tokenizer.encode(sentence, add_special_tokens=False))
        if present + length > tokens:
            break
        text += sentence
    return text + LAST


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def table(result: dict[str, Any]) -> str:
    """The measurements as a table."""
    lines = ["turn  prompt     fed   first token    cold prefill   ratio"]
    for row in result["turns"]:
        cold = "-" if row["cold"] is None else f"{1000 * row['cold']:.0f} ms"
        ratio = "-" if row["cold"] is None else f"{row['warm'] / row['cold']:.1%}"
        lines.append(
            f"{row['turn']:4}  {row['tokens']:6}  {row['fed']:6}  "
            f"{1000 * row['warm']:8.0f} ms  {cold:>14}  {ratio:>6}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="race", help="name of a shape, or tiny")
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--question", type=int, default=64)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--cold-every", type=int, default=1)
    options = parser.parse_args()
    pair, tokenizer = load() if options.shape == "tiny" else load_shape(options.shape)
    sizes = {k: v for k, v in vars(options).items() if k != "shape"}
    result = measure(pair, tokenizer, **sizes)
    machine = ", ".join(f"{key} {value}" for key, value in describe().items())
    print(f"{machine}, shape {options.shape}")
    print(table(result))
    print(json.dumps(vars(options) | result))


if __name__ == "__main__":
    main()
