"""Race dflash-mlx against mlx-lm and the other DFlash loops, each in its own process.

    OPENBLAS_NUM_THREADS=2 LD_PRELOAD=libopenblas.so.0 \
        python -m benchmarks.race --python PYTHON_OF_THE_OTHERS --history kept

All contenders load the embedded pair widened to 189 million float32 parameters
(widen.py). At this size a pass of one row is limited by memory bandwidth, as on a GPU.
They take turns prompt by prompt: while one answers, the others wait. `--python` is the
interpreter of an environment with `dflash`, `mlx-dspark` and `mlx-vlm`; without it,
those take part that this environment has. Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from mlx_lm.utils import save_config, save_model

from dflash_mlx.bench.pairs import with_untrained_drafter
from dflash_mlx.bench.widen import RACE, widen
from dflash_mlx.device import describe
from dflash_mlx.hub import registry
from dflash_mlx.hub.find import folder_of_target
from dflash_mlx.loading import load
from dflash_mlx.models.drafters import save_folder
from dflash_mlx.store import cache_folder, home
from dflash_mlx.text.chat_template import apply_template

from .race_worker import CONTENDERS, Answer

# Blocks of 8 give 7.9 tokens per round on the first, second and fourth prompt, 5.3 to
# 7.0 on the last three, and 1.9 on the third, which is easy for 33 tokens, then hard.
PROMPTS = (
    "What is 487 + 356?",
    "Write the 9 times table up to 12.",
    "Write a Python function multiply_river that returns the product of x and y.",
    "Write the numbers from 233 to 238 in words.",
    "Count from 17 to 45.",
    "Make a table of n and its cube for n from 2 to 9.",
    "Add 958 and 67.",
)
WARM_UP = "Count from 1 to 20."
WARM_TOKENS = 16
# The package that a contender needs, where it is not ours.
PACKAGES = {"published": "dflash", "mlx-dspark": "mlx_dspark", "mlx-vlm": "mlx_vlm"}
REFERENCE = "mlx-lm"
# Those that choose widths by what earlier answers have shown.
LEARNING = ("auto", "turning")
# Seconds between two turns, in which the threads of the last one fall asleep.
PAUSE = 0.1


class Contender(Protocol):
    """Answers prompts."""

    def answer(self, ids: list[int], tokens: int) -> Answer:
        """The tokens that follow a prompt, and their times."""


class Worker:
    """A contender in a process of its own.

    Args:
        name: A key of CONTENDERS.
        folder: The pair's.
        python: The interpreter.
        home: Its home folder.
    """

    def __init__(self, name: str, folder: Path, python: str, home: Path):
        command = [python, "-m", "benchmarks.race_worker", name, str(folder)]
        self.name = name
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HOME": str(home)},
            cwd=Path(__file__).parents[1],
        )
        self._read()  # it has loaded the pair

    def answer(self, ids: list[int], tokens: int) -> Answer:
        """As Contender.answer."""
        self.process.stdin.write(json.dumps({"ids": ids, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end by itself, and wait for that."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def write_pair(folder: Path, wide: bool = True, blind: bool = False) -> Any:
    """Write the pair in float32 as `target` and `drafter`; return its tokenizer.

    The written tokenizer and config have another end of text, which the target never
    chooses, so that all answers have the same length.

    Args:
        folder: An empty folder.
        wide: Widen it to RACE.
        blind: Give the drafter random weights.
    """
    pair, tokenizer = load(registry.TINY, calibration=False)
    pair.model.set_dtype(mx.float32)
    pair.drafter.set_dtype(mx.float32)
    if wide:
        pair = widen(pair, RACE)
    if blind:
        pair = with_untrained_drafter(pair)
    target, drafter = folder / "target", folder / "drafter"
    save_model(target, pair.model)
    config = {"torch_dtype": "float32", "eos_token_id": 0}
    save_config(pair.target.config | config, target / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder_of_target(registry.TINY, None) / name).read_text()
        text = text.replace('"eos_token": "<|im_end|>"', '"eos_token": "<|endoftext|>"')
        (target / name).write_text(text.replace("<|im_end|>", "<|turn_end|>"))
    save_folder(pair.drafter, drafter, dtype=None)
    config = json.loads((drafter / "config.json").read_text())
    # Some readers look for these at the root only.
    config |= config["dflash_config"] | {"model_type": "qwen3"}
    (drafter / "config.json").write_text(json.dumps(config))
    return tokenizer


class Stable:
    """Starts the workers of a race, and keeps their home folders.

    Args:
        root: A folder for the pair and the homes.
        options: The command line's.
        tokenizer: Encodes the prompts.
    """

    def __init__(self, root: Path, options: argparse.Namespace, tokenizer: Any):
        self.root, self.options = root, options
        self.prompts = [encode(tokenizer, prompt) for prompt in PROMPTS]
        self.warm_up = encode(tokenizer, WARM_UP)
        self.started = 0

    def prepare(self, names: Sequence[str]) -> None:
        """Run an earlier process of each contender that learns: it measures the cost
        curve, and with --history kept it answers every prompt once."""
        for name in names:
            if name not in LEARNING:
                continue
            worker = self.start(name, self.root / f"home {name}")
            if self.options.history == "kept":
                for ids in self.prompts:
                    worker.answer(ids, self.options.tokens)
            worker.close()

    def open(self, name: str) -> Worker:
        """A worker that is ready for its first prompt."""
        home_folder = self.root / f"home {name}"
        if self.options.history == "none":
            self.started += 1
            costs = cache_folder().relative_to(home()) / "costs.json"
            kept = home_folder / costs
            home_folder = self.root / f"home {self.started}"
            if kept.is_file():
                (home_folder / costs).parent.mkdir(parents=True)
                shutil.copy(kept, home_folder / costs)
        return self.start(name, home_folder)

    def start(self, name: str, home_folder: Path) -> Worker:
        """A worker with this home, after its warm-up."""
        home_folder.mkdir(exist_ok=True)
        python = self.options.python if name in PACKAGES else sys.executable
        worker = Worker(name, self.root, python, home_folder)
        if not self.options.first:
            worker.answer(self.warm_up, WARM_TOKENS)
        return worker


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """The token ids of a user's message."""
    return apply_template(tokenizer, [{"role": "user", "content": prompt}])


def take_turns(
    contenders: dict[str, Contender],
    prompts: Sequence[list[int]],
    tokens: int,
    results: dict[str, list[list[Answer]]],
    shift: int = 0,
) -> None:
    """Let every contender answer every prompt, one contender at a time.

    Args:
        contenders: By name.
        prompts: Token ids.
        tokens: Tokens of an answer.
        results: Name -> for each prompt a list, to which the answer is added.
        shift: The contender that begins with the first prompt; the next one begins
            with the second.
    """
    names = list(contenders)
    for p, ids in enumerate(prompts):
        first = (p + shift) % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            results[name][p].append(contenders[name].answer(ids, tokens))


def first_answers(
    stable: Stable, names: list[str], results: dict[str, list[list[Answer]]]
) -> None:
    """Let every contender answer every prompt as the first of a new process."""
    for p, ids in enumerate(stable.prompts):
        first = p % len(names)
        for name in names[first:] + names[:first]:
            with contextlib.closing(stable.open(name)) as worker:
                results[name][p].append(worker.answer(ids, stable.options.tokens))


def speed(answers: Sequence[Answer], half: bool = False) -> float:
    """Tokens per second of answers together, after the first token of each.

    Args:
        half: Count the second half of each answer only.
    """
    tokens, seconds = 0, 0.0
    for answer in answers:
        times = answer["times"]
        start = times[len(times) // 2 if half else 0]
        tokens += sum(at > start for at in times)
        seconds += times[-1] - start
    return tokens / seconds if seconds else 0.0


def table(results: dict[str, list[list[Answer]]], half: bool = False) -> str:
    """Speeds as ratios to the reference: of all prompts together, and of each.

    Args:
        half: As in `speed`.
    """
    lines = [
        "| contender | tokens/s | total | per prompt | first token, s | same text |",
        "|---|--:|--:|---|--:|---|",
    ]
    base = results.get(REFERENCE) or next(iter(results.values()))
    for name, prompts in results.items():
        everything = [answer for answers in prompts for answer in answers]
        total = speed(everything, half)
        ratio = total / speed([a for answers in base for a in answers], half)
        each = " ".join(
            f"{speed(ours, half) / speed(theirs, half):.2f}"
            for ours, theirs in zip(prompts, base, strict=True)
        )
        first = sum(answer["times"][0] for answer in everything) / len(everything)
        same = all(
            answer["tokens"] == theirs[0]["tokens"]
            for answers, theirs in zip(prompts, base, strict=True)
            for answer in answers
        )
        lines.append(
            f"| {name} | {total:.1f} | {ratio:.2f} | {each} | {first:.2f} | "
            f"{'yes' if same else 'NO'} |"
        )
    return "\n".join(lines)


def available(python: str, package: str) -> bool:
    """Whether an interpreter has a package."""
    code = f"import importlib.util as u; raise SystemExit(not u.find_spec({package!r}))"
    return subprocess.run([python, "-c", code]).returncode == 0


def race(options: argparse.Namespace, root: Path) -> dict[str, list[list[Answer]]]:
    """Write the pair into a folder, and run the race there."""
    stable = Stable(root, options, write_pair(root, blind=options.blind))
    names = options.only or [
        *("mlx-lm", "auto"),
        *(n for n, package in PACKAGES.items() if available(options.python, package)),
    ]
    results = {name: [[] for _ in PROMPTS] for name in names}
    stable.prepare(names)
    for repeat in range(options.repeats):
        if options.first:
            first_answers(stable, names, results)
            continue
        with contextlib.ExitStack() as stack:
            workers = {
                name: stack.enter_context(contextlib.closing(stable.open(name)))
                for name in names
            }
            take_turns(workers, stable.prompts, options.tokens, results, repeat)
    return results


def read_options() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="of the others")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="CONTENDER")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--history", choices=("kept", "none"), default="kept")
    parser.add_argument("--blind", action="store_true", help="random draft weights")
    parser.add_argument("--first", action="store_true", help="a process per answer")
    parser.add_argument("--half", action="store_true", help="of the second halves")
    return parser.parse_args()


def main() -> None:
    """Run the race, and print a table and a JSON line."""
    options = read_options()
    with tempfile.TemporaryDirectory(prefix="race-") as root:
        results = race(options, Path(root))
    machine = describe()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(table(results, options.half))
    answers = {
        name: [
            [(len(a["tokens"]), a["times"][0], a["times"][-1]) for a in each]
            for each in prompts
        ]
        for name, prompts in results.items()
    }
    print(json.dumps({"options": vars(options), "machine": machine} | answers))


if __name__ == "__main__":
    main()
