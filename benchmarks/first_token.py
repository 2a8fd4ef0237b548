"""Measure the time to the first token: of several loops, and in a growing chat.

    python -m benchmarks.first_token --shape race --rows 20 500 --repeats 9
    python -m benchmarks.first_token --shape race --context 8000 --turns 10

With --rows, prompts of so many tokens are answered by mlx-lm and by dflash-mlx without
and with drafts, in turns. Without it, the synthetic chat: the first message is long,
like a pasted file; the others are questions. The prompt of the last turn has about
--context tokens. "Warm" keeps the prompt cache of the chat. "Cold" prefills the same
prompt into a new cache, as a chat without a prompt cache does. The ratio of both is at
least the share of new tokens in the prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import mlx.core as mx
import mlx_lm

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


def compare(
    pair: Pair, tokenizer: Any, rows: Sequence[int], repeats: int
) -> dict[int, dict[str, list[float]]]:
    """Time the first token of three loops, which take turns.

    Args:
        pair, tokenizer: From `load` or `load_shape`, with a chat template.
        rows: Numbers of prompt tokens.
        repeats: Number of answers per loop and prompt, after a short one.

    Returns:
        By number of rows, by loop: the seconds of each repeat.
    """
    require(min(rows) >= 1, "rows", "1 or more", min(rows))
    require(repeats >= 1, "repeats", "1 or more", repeats)
    text = fill(tokenizer, [], max(rows) + len(tokenizer.encode(LAST)) + 32)
    ids = apply_template(tokenizer, [user(text)])
    loops = {
        "mlx-lm": lambda ids: mlx_lm.stream_generate(
            pair.model, tokenizer, ids, max_tokens=4
        ),
        "plain": lambda ids: stream_generate(
            pair, tokenizer, ids, max_tokens=4, speculate=False
        ),
        "drafting": lambda ids: stream_generate(pair, tokenizer, ids, max_tokens=4),
    }
    for start in loops.values():
        seconds_to_first(lambda start=start: start(ids[:16]))
    result = {n: {name: [] for name in loops} for n in rows}
    for n, times in result.items():
        for repeat in range(repeats):
            first = repeat % len(loops)
            for name in [*loops][first:] + [*loops][:first]:
                spent = seconds_to_first(lambda name=name, n=n: loops[name](ids[:n]))
                times[name].append(spent)
    return result


def seconds_to_first(start: Callable) -> float:
    """Seconds until a stream gives its first response. It is then closed."""
    mx.clear_cache()
    then = time.perf_counter()
    stream = start()
    next(stream)
    spent = time.perf_counter() - then
    stream.close()
    return spent


def comparison_table(result: dict[int, dict[str, list[float]]]) -> str:
    """Medians of `compare`, and the median ratio of drafting to the others."""
    lines = [
        "| prompt tokens | mlx-lm | plain | drafting | of mlx-lm's | of plain's |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for rows, times in result.items():
        seconds = " | ".join(f"{median(each):.3f} s" for each in times.values())
        of_both = [median(times["drafting"]) / median(times[name]) for name in times]
        lines.append(f"| {rows:,} | {seconds} | {of_both[0]:.3f} | {of_both[1]:.3f} |")
    return "\n".join(lines)


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
    parser.add_argument("--rows", type=int, nargs="+", help="compare three loops")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--question", type=int, default=64)
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--cold-every", type=int, default=1)
    options = parser.parse_args()
    pair, tokenizer = load() if options.shape == "tiny" else load_shape(options.shape)
    machine = ", ".join(f"{key} {value}" for key, value in describe().items())
    print(f"{machine}, shape {options.shape}")
    if options.rows:
        result = compare(pair, tokenizer, options.rows, options.repeats)
        print(comparison_table(result))
    else:
        names = ("context", "turns", "question", "answer", "cold_every")
        sizes = {name: getattr(options, name) for name in names}
        result = measure(pair, tokenizer, **sizes)
        print(table(result))
    print(json.dumps(vars(options) | result))


if __name__ == "__main__":
    main()
