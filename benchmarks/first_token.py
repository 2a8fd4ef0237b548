"""Time to the first token of every turn of a growing chat, against a cold prefill.

Owns the made-up chat and its clock. The first message is a long one, as a pasted file
is, the others are questions; the prompt of the last turn has about as many tokens as
asked for. Cold is the same prompt in a fresh cache: what a chat without a prompt cache
waits for in each turn. A turn's share of it is at least that of its new tokens.

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

# In the tiny tokenizer's own words.
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
    """Hold a chat, and time every turn's first token, with its template and marks.

    Args:
        pair, tokenizer: From `load` or `load_shape`; the template must be a chat's.
        context: Prompt tokens of the last turn, about.
        turns: Of the chat.
        question: Tokens that every turn but the first adds to the prompt, about.
        answer: Most tokens of an answer.
        cold_every: Measure the cold prefill of each so many turns, counted back from
            the last.

    Returns:
        "turns": a dict each with its number `turn`, prompt `tokens`, those passed
        (`fed`), and seconds to the first token, `warm` and `cold` (None where not
        measured); "ratio": warm over cold of the last turn.

    Raises:
        OptionError: A number is out of range, or the context too short for the turns.
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
    """Answer a chat's last message from a cache; when the first token came.

    Returns:
        "seconds" from the messages to the first token, "tokens" of the prompt, how
        many of them were "fed", and the answer's "text".
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
    """A message that makes the chat's prompt about so many tokens long.

    Raises:
        OptionError: The chat is longer already.
    """
    having = len(apply_template(tokenizer, [*messages, user(LAST)]))
    if having > tokens:
        raise OptionError(
            f"A turn of the chat has {having} tokens, and was to have {tokens}.",
            "Ask for more context, longer questions or fewer turns.",
        )
    text, length = "", 0
    for i in range(tokens):
        more = SENTENCE.format(10 + i % 89, 11 + i % 83)
        length += len(tokenizer.encode(more, add_special_tokens=False))
        if having + length > tokens:
            break
        text += more
    return text + LAST


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def table(result: dict[str, Any]) -> str:
    """What was measured, for people."""
    lines = ["turn  prompt     fed   first token    cold prefill   share"]
    for row in result["turns"]:
        cold = "-" if row["cold"] is None else f"{1000 * row['cold']:.0f} ms"
        share = "-" if row["cold"] is None else f"{row['warm'] / row['cold']:.1%}"
        lines.append(
            f"{row['turn']:4}  {row['tokens']:6}  {row['fed']:6}  "
            f"{1000 * row['warm']:8.0f} ms  {cold:>14}  {share:>6}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, and a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="race", help="of shapes.toml, or tiny")
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--question", type=int, default=64)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--cold-every", type=int, default=1)
    asked = parser.parse_args()
    pair, tokenizer = load() if asked.shape == "tiny" else load_shape(asked.shape)
    sizes = {k: v for k, v in vars(asked).items() if k != "shape"}
    result = measure(pair, tokenizer, **sizes)
    machine = ", ".join(f"{key} {value}" for key, value in describe().items())
    print(f"{machine}, shape {asked.shape}")
    print(table(result))
    print(json.dumps(vars(asked) | result))


if __name__ == "__main__":
    main()
