"""Chooses the dtype that a drafter in half precision computes in.

Two machines leave a choice. GPUs without native bfloat16 compute float16 fast, but some
drafters overflow in it and draft nonsense; float32 is safe and reads twice as many
bytes. And MLX computes float32 several times as fast as half precision on the CPU. The
choice is measured, once per drafter and machine. Elsewhere a drafter keeps its dtype
and nothing is measured. Does not know what a drafter computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .. import device
from ..cache.prompt_cache import PromptCache
from ..decoding.loop import decode
from ..decoding.passes import Passes
from ..decoding.prefill import prefill
from ..decoding.requests import run_alone
from ..decoding.sampling import Chooser
from ..hub.registry import numbers_of
from ..models import fingerprint
from ..models.drafters.dflash import DFlash
from ..pair import Pair
from ..store import Store, ignore
from ..types import KVBits, Sampling
from .calibrate import REPEATS, commit_one, default_store, round_seconds
from .meter import Meter

PROMPT = "Write the numbers from one to thirty in words."
TOKENS = 64
# Seconds after which no further round is decoded to count the drafts that are kept.
BUDGET = 4.0
# The share of the safer dtype's tokens per round that the faster one may lose.
MAX_LOSS = 0.05
# The share of the time of a draft that a larger dtype must save at least.
LEAST_GAIN = 0.1
DTYPES = {"float16": mx.float16, "float32": mx.float32, "bfloat16": mx.bfloat16}
HALF = (mx.bfloat16, mx.float16)

Weights = list[tuple[str, mx.array]]


@dataclass(frozen=True)
class Choice:
    """The dtypes that a drafter may compute in on this machine.

    Args:
        fast: The name of the dtype that is taken if it loses few tokens per round.
        safe: The name of the one that is taken otherwise, or if nothing is measured.
        timed: Take `fast` only if its drafts are measured to be faster.
        key: What the outcome depends on, as text.
    """

    fast: str
    safe: str
    timed: bool
    key: str


def choose_draft_dtype(
    pair: Pair,
    tokenizer: Any,
    notice: Callable[[str], None] = ignore,
    store: Store | None = None,
    measuring: bool = True,
    status: Callable[[str], None] = ignore,
) -> mx.Dtype:
    """Cast a drafter to the dtype that this machine drafts in best.

    Args:
        pair: Its drafter changes in place.
        tokenizer: The target's tokenizer.
        notice: Called with one line of text if something is measured.
        store: Where the outcome is stored; this user's file of curves by default.
        measuring: Measure if no outcome is stored. Otherwise the safe dtype is taken:
            float32 on a GPU without bfloat16, on the CPU the drafter's own.
        status: Called with one line of text before each step of a measurement.

    Returns:
        The drafter's dtype.
    """
    drafter, choice = pair.drafter, open_choice(pair)
    if choice is None:
        return drafter.dtype
    store = store or default_store(notice)
    weights = tree_flatten(drafter.parameters())
    entry = store.all().get(choice.key)
    name = entry.get("dtype") if isinstance(entry, dict) else None
    if name not in (choice.fast, choice.safe):
        name = choice.safe
        if measuring:
            notice(
                f"Measuring the drafter in {choice.fast} and {choice.safe} once, for "
                "some seconds. --no-calibration skips it."
            )
            meter = Meter("Measuring the drafter", status)
            with pair.wired():
                prompt = list(tokenizer.encode(PROMPT))
                name, found = measure(pair, weights, prompt, choice, meter)
            store.put(choice.key, {"dtype": name} | found)
    cast(drafter, weights, DTYPES[name])
    return drafter.dtype


def open_choice(pair: Pair) -> Choice | None:
    """The dtypes to choose from; None if the drafter keeps its own without question.

    On the CPU that is so unless the target computes in float32 and the drafter in half
    precision, or if there is no memory for the drafter in both.
    """
    drafter = pair.drafter
    if not device.native_bfloat16():
        if drafter.dtype != mx.bfloat16:
            return None
        return Choice("float16", "float32", False, dtype_key(pair))
    if not device.runs_on_cpu() or drafter.dtype not in HALF:
        return None
    if target_dtype(pair) != mx.float32 or not fits_in_float32(pair):
        return None
    own = next(name for name, dtype in DTYPES.items() if dtype == drafter.dtype)
    return Choice("float32", own, True, f"{dtype_key(pair)}, in float32 on the CPU")


def target_dtype(pair: Pair) -> mx.Dtype:
    """The dtype of a target's embeddings."""
    return pair.target.embed(mx.zeros((1, 1), mx.int32)).dtype


def fits_in_float32(pair: Pair) -> bool:
    """Whether memory has room for a float32 copy of the drafter beside the pair."""
    arrays = [array for _, array in tree_flatten(pair.drafter.parameters())]
    copy = sum(4 * a.size for a in arrays if mx.issubdtype(a.dtype, mx.floating))
    held = device.model_bytes(pair.model) + device.model_bytes(pair.drafter)
    return held + copy <= device.memory_bytes()


def dtype_key(pair: Pair) -> str:
    """What the outcome depends on, as text."""
    numbers = ", ".join(str(n) for n in numbers_of(pair.target.config).values())
    drafter = fingerprint.of_drafter(pair.drafter)[:16]
    return f"dtype of drafter {drafter} for target {numbers}"


def measure(
    pair: Pair,
    weights: Weights,
    prompt: list[int],
    choice: Choice,
    report: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[str, dict[str, dict[str, float]]]:
    """The name of the better dtype, and the figures of each that were measured.

    Args:
        pair: Its drafter is left in one of the two.
        weights: The drafter's, in its own dtype.
        prompt: Token ids.
        choice: The two dtypes.
        report: Called before each step with the number of steps that are done, the
            number of all, and what is measured.
    """
    names, steps, found = (choice.safe, choice.fast), 4 if choice.timed else 2, {}
    if choice.timed:
        seconds = found["seconds_per_draft"] = {}
        for i, name in enumerate(names):
            report(i, steps, f"a draft in {name}")
            cast(pair.drafter, weights, DTYPES[name])
            seconds[name] = seconds_per_draft(pair, prompt)
        if seconds[choice.fast] > seconds[choice.safe] * (1 - LEAST_GAIN):
            return choice.safe, found
    kept, tokens = {}, TOKENS
    for i, name in enumerate(names):
        report(steps - 2 + i, steps, f"drafts kept in {name}")
        cast(pair.drafter, weights, DTYPES[name])
        rounds = decode_rounds(pair, prompt, tokens, BUDGET if choice.timed else None)
        tokens = sum(rounds)  # the other one decodes the same text
        kept[name] = (tokens - 1) / max(len(rounds) - 1, 1)
    found["tokens_per_round"] = kept
    few = kept[choice.fast] < kept[choice.safe] * (1 - MAX_LOSS)
    return (choice.safe if few else choice.fast), found


def decode_rounds(
    pair: Pair,
    prompt: list[int],
    tokens: int,
    budget: float | None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[int]:
    """The number of tokens of each round of an answer, the prefill's included.

    Args:
        pair: Decodes with blocks of full width.
        prompt: Token ids.
        tokens: Most tokens.
        budget: Seconds after which no further round is begun; None for no limit.
        clock: Returns seconds.
    """
    started, rounds = clock(), []
    options = {"max_tokens": tokens, "block_size": pair.drafter.block_size}
    for round in decode(pair, prompt, **options):
        rounds.append(len(round.tokens))
        if budget is not None and clock() - started > budget:
            break
    return rounds


def seconds_per_draft(
    pair: Pair, prompt: list[int], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of a draft of full width after a prompt: the median of several."""
    cache, chooser = PromptCache(pair), Chooser(Sampling())
    passes = Passes(pair, cache, prompt, chooser, KVBits(), drafting=True)
    commit_one(passes, run_alone(prefill(passes, len(prompt))))
    width = pair.drafter.block_size
    times = [round_seconds(passes, width, clock)[0] for _ in range(1 + REPEATS)]
    passes.close()
    return median(times[1:])


def cast(drafter: DFlash, weights: Weights, dtype: mx.Dtype) -> None:
    """Load `weights` into a drafter, the floating-point ones in another dtype."""
    floats = [(k, v) for k, v in weights if mx.issubdtype(v.dtype, mx.floating)]
    drafter.load_weights([(k, v.astype(dtype)) for k, v in floats], strict=False)
    mx.eval(drafter.parameters())
