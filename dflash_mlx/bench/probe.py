"""Tokens per round of a drafter: as it is, and under other readings of its config.

A wrong anchor slot, tap or mask raises no error and changes no word; it only drafts
worse. So the readings are tried, and the numbers tell. Greedy, on a few prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engine import stream_generate
from ..loading import check_pair
from ..models.drafters import load_folder
from ..models.drafters.config import DFlashConfig
from ..models.drafters.dflash import DFlash
from ..pair import Pair
from ..stats import Stats
from ..text.chat_template import apply_template

PROMPTS = (
    "What is 48 + 76?",
    "What is 12 + 34?",
    "Write a Python function add_lemon that returns the sum of a and b.",
    "Write the 7 times table up to 10.",
    "Write the numbers from 233 to 238 in words.",
)
# Better by less than this factor may be chance.
MARGIN = 1.1


@dataclass(frozen=True)
class Trial:
    """A reading, and how it drafted.

    Args:
        name: What it reads otherwise than the checkpoint's packaging; "as read".
        options: How `convert` is asked for it.
        config: The numbers.
        tokens_per_round: Over all prompts.
        first: How often the first draft was kept.
        mask: It tries another mask inside the block.
    """

    name: str
    options: str
    config: DFlashConfig
    tokens_per_round: float = 0.0
    first: float = 0.0
    mask: bool = False


def measure(
    pair: Pair, tokenizer: Any, prompts: Sequence[str] = PROMPTS, max_tokens: int = 64
) -> Stats:
    """The counters of a pair's greedy answers, pooled.

    Args:
        pair: With a drafter.
        tokenizer: Its tokenizer; with a chat template the prompts get it.
        prompts: What is asked.
        max_tokens: Of each answer.
    """
    pooled = Stats()
    options = {"max_tokens": max_tokens, "block_size": pair.drafter.block_size}
    for prompt in prompts:
        ids: str | list[int] = prompt
        if tokenizer.has_chat_template:
            ids = apply_template(tokenizer, [{"role": "user", "content": prompt}])
        for response in stream_generate(pair, tokenizer, ids, **options):
            last = response
        pooled.add(last.stats)
    return pooled


def readings(config: DFlashConfig, layers: int) -> list[Trial]:
    """The packaging's reading, then every other anchor slot and tap shift.

    Args:
        config: As read.
        layers: Of the target.
    """
    found = []
    for slot in (config.sample_from_anchor, not config.sample_from_anchor):
        for shift in (0, 1, -1):
            taps = tuple(tap + shift for tap in config.target_layer_ids)
            read = slot == config.sample_from_anchor and not shift
            if not read and not all(0 <= tap < layers for tap in taps):
                continue
            names, options = [], []
            if slot != config.sample_from_anchor:
                names.append(f"the anchor's slot {'predicts' if slot else 'does not'}")
                options.append(f"--{'' if slot else 'no-'}sample-from-anchor")
            if shift:
                names.append(f"taps {'+' if shift > 0 else ''}{shift}")
                options.append(f"--tap-shift {shift}")
            other = replace(config, sample_from_anchor=slot, target_layer_ids=taps)
            trial = Trial(", ".join(names) or "as read", " ".join(options), other)
            found.append(trial)
    return found


def masks(best: Trial) -> list[Trial]:
    """The best reading so far with the other masks inside the block."""
    now, found = best.config.is_causal, []
    sliding = bool(best.config.layer_types)
    for causal in (True, False):
        # Without sliding layers nothing is causal unless it is said.
        if causal is now or (not causal and now is None and not sliding):
            continue
        word = "causal" if causal else "symmetric"
        name = f"{word} in the block"
        name = name if best.name == "as read" else f"{best.name}, {name}"
        option = "--causal" if causal else "--no-causal"
        config = replace(best.config, is_causal=causal)
        options = f"{best.options} {option}".strip()
        found.append(Trial(name, options, config, mask=True))
    return found


def probe(
    folder: Path,
    target: Pair,
    tokenizer: Any,
    prompts: Sequence[str] = PROMPTS,
    max_tokens: int = 64,
    progress: Callable[[Trial], None] | None = None,
) -> list[Trial]:
    """Draft under every plausible reading; the packaging's own comes first.

    Args:
        folder: The drafter's.
        target: A pair with its target; a drafter in it is ignored.
        tokenizer: The target's.
        prompts, max_tokens: As in measure.
        progress: Called with each trial as it is done.

    Raises:
        DFlashError: The drafter does not load or does not fit.
    """

    def tried(trial: Trial) -> Trial:
        taps = trial.config.target_layer_ids
        if not all(0 <= tap < target.target.num_layers for tap in taps):
            return replace(trial, name=f"{trial.name} (not layers of the target)")
        pair = Pair.of(target.model, reread(drafter, trial), target.target.config)
        stats = measure(pair, tokenizer, prompts, max_tokens)
        first = stats.acceptance[0] if stats.acceptance else 0.0
        trial = replace(trial, tokens_per_round=stats.tokens_per_round, first=first)
        if progress:
            progress(trial)
        return trial

    drafter = load_folder(folder)
    check_pair(target.target.config, replace(drafter.config, target_layer_ids=(0,)))
    found = [tried(t) for t in readings(drafter.config, target.target.num_layers)]
    return found + [tried(trial) for trial in masks(choice(found))]


def reread(drafter: DFlash, trial: Trial) -> DFlash:
    """The same weights under another reading."""
    twin = type(drafter)(trial.config, drafter.own_window)
    for name, part in drafter.items():
        twin[name] = part
    twin.eval()
    return twin


def choice(trials: Sequence[Trial]) -> Trial:
    """The reading to use: the packaging's, unless another drafts clearly better."""
    best = trials[0]
    # Masks last, and only if they are clearly better than the best slot and taps.
    for kind in (False, True):
        tried = [trial for trial in trials if trial.mask is kind]
        found = max(tried, key=lambda trial: trial.tokens_per_round, default=best)
        if found.tokens_per_round > best.tokens_per_round * MARGIN:
            best = found
    return best
