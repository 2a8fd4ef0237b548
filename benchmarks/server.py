"""Compare answers through the server with stream_generate's, on one pair.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 python -m benchmarks.server

The server runs in this process; its client, a process of its own, streams chat
completions. Each prompt is answered directly and through the server, in turns, with
plain decoding's caches empty each time. Printed: tokens per second after the first
token, and seconds to the first token, each as the median of the server's share of the
direct value; and the same of the medians.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from dflash_mlx.bench.shapes import load_shape
from dflash_mlx.device import describe
from dflash_mlx.engine import stream_generate
from dflash_mlx.loading import load
from dflash_mlx.pair import Pair
from dflash_mlx.server.models import Loaded, Models
from dflash_mlx.server.prefix_store import PrefixStore
from dflash_mlx.server.run import bind, make_server
from dflash_mlx.server.settings import Access, Settings
from dflash_mlx.text.chat_template import apply_template

QUESTIONS = (
    "What is 12 + 34?",
    "Write the 7 times table up to 9.",
    "Count from 5 to 25.",
    "Sort these numbers: 9, 4, 7, 1.",
    "What is 48 - 19?",
    "List the even numbers from 2 to 30.",
    "Add 1, 2, 3 and 4 step by step.",
)
# Reads requests from stdin, streams each, and prints the arrival of its tokens.
CLIENT = """
import json, sys, time, httpx
client = httpx.Client(timeout=600)
for line in sys.stdin:
    url, body = json.loads(line)
    begun, times = time.perf_counter(), []
    with client.stream("POST", url, json=body) as response:
        for text in response.iter_lines():
            if text.startswith("data: {"):
                chunk = json.loads(text[6:])
                if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                    times.append(time.perf_counter() - begun)
                usage = chunk.get("usage") or {}
    print(json.dumps([times[0], times[-1], usage["completion_tokens"]]), flush=True)
"""


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="race")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.shape == "tiny":
        pair, tokenizer = load("tiny")
    else:
        pair, tokenizer = load_shape(options.shape)
    rows = list(compare(pair, tokenizer, options.tokens, options.repeats))
    print(json.dumps(describe()))
    print(table(rows))


def compare(
    pair: Pair, tokenizer: Any, tokens: int, repeats: int
) -> Iterator[dict[str, tuple[float, float]]]:
    """Answer each question directly and through the server, in turns.

    Args:
        pair, tokenizer: The models.
        tokens: Most tokens of an answer.
        repeats: Number of answers to each question, after one that warms up.

    Yields:
        "direct" and "server": (seconds to the first token, tokens per second after it).
    """
    loaded = Loaded("race", pair, tokenizer, "drafter", PrefixStore(pair))
    models = Models(["race"], lambda name: (pair, tokenizer, None), {}, loaded=loaded)
    ready, access = threading.Event(), Access(port=0)
    sock = bind(access)
    server = make_server(models, Settings(access=access), ready.set)
    threading.Thread(target=server.run, args=([sock],), daemon=True).start()
    ready.wait()
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1/chat/completions"
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for repeat in range(repeats + 1):
        for i, question in enumerate(QUESTIONS):
            loaded.prefixes.reset()
            runs = [
                ("direct", lambda q=question: directly(pair, tokenizer, q, tokens)),
                ("server", lambda q=question: through(client, url, q, tokens)),
            ]
            order = runs if (repeat + i) % 2 else runs[::-1]
            row = {name: run() for name, run in order}
            if repeat:
                yield row
    client.stdin.close()
    client.wait()
    server.handle_exit(2, None)


def directly(
    pair: Pair, tokenizer: Any, question: str, tokens: int
) -> tuple[float, float]:
    """Answer a question with stream_generate; the first token's time, and the rate."""
    begun, times = time.perf_counter(), []
    ids = apply_template(tokenizer, [{"role": "user", "content": question}])
    for _ in stream_generate(pair, tokenizer, ids, max_tokens=tokens):
        times.append(time.perf_counter() - begun)
    return times[0], (len(times) - 1) / (times[-1] - times[0])


def through(
    client: subprocess.Popen, url: str, question: str, tokens: int
) -> tuple[float, float]:
    """As `directly`, through the server."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    client.stdin.write(json.dumps([url, body]) + "\n")
    client.stdin.flush()
    first, last, count = json.loads(client.stdout.readline())
    return first, (count - 1) / (last - first)


def table(rows: list[dict[str, tuple[float, float]]]) -> str:
    """The medians, and the server's shares of the direct values."""
    lines = ["| | first token, s | tokens/s |", "|---|--:|--:|"]
    for name in ("direct", "server"):
        first, rate = (median(row[name][i] for row in rows) for i in (0, 1))
        lines.append(f"| {name} | {first:.3f} | {rate:.1f} |")
    first, rate = (
        median(row["server"][i] / row["direct"][i] for row in rows) for i in (0, 1)
    )
    return "\n".join([*lines, f"| median share | {first:.3f} | {rate:.3f} |"])


if __name__ == "__main__":
    main()
