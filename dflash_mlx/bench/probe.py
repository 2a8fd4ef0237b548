"""Measure tokens per round of a drafter under several readings of its config.

A wrong anchor slot, tap or mask raises no error and does not change the text; it only
lowers acceptance. So every plausible reading is measured, greedily on a few prompts.
Does not know packagings or how a checkpoint is converted.
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
# A smaller improvement than this factor may be chance.
MARGIN = 1.1


@dataclass(frozen=True)
class Trial:
    """A reading of a drafter's config, and its measurement.

    Args:
        name: How it differs from the packaging's own reading, which is "as read".
        options: Options of `convert` for this reading.
        config: The config under this reading.
        tokens_per_round: Tokens per round over all prompts.
        first: Acceptance of the first draft.
        mask: The reading has another mask inside the block.
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
    """The counters of a pair's greedy answers, added up.

    Args:
        pair: A pair with a drafter.
        tokenizer: The target's tokenizer; its chat template is applied if it has one.
        prompts: User messages.
        max_tokens: Maximum number of tokens in each answer.
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
    """The packaging's own reading, then every other anchor slot and tap shift.

    Args:
        config: The config as the packaging reads it.
        layers: Number of layers of the target.
    """
    found = []
    for slot in (config.sample_from_anchor, not config.sample_from_anchor):
        for shift in (0, 1, -1):
            taps = tuple(tap + shift for tap in config.target_layer_ids)
            as_read = slot == config.sample_from_anchor and not shift
            if not as_read and not all(0 <= tap < layers for tap in taps):
                continue
            names, options = [], []
            if slot != config.sample_from_anchor:
                verb = "predicts" if slot else "does not predict"
                names.append(f"the anchor's slot {verb}")
                options.append(f"--{'' if slot else 'no-'}sample-from-anchor")
            if shift:
                names.append(f"taps {'+' if shift > 0 else ''}{shift}")
                options.append(f"--tap-shift {shift}")
            other = replace(config, sample_from_anchor=slot, target_layer_ids=taps)
            trial = Trial(", ".join(names) or "as read", " ".join(options), other)
            found.append(trial)
    return found


def mask_trials(best: Trial) -> list[Trial]:
    """A reading with the other masks inside the block."""
    current, found = best.config.is_causal, []
    sliding = bool(best.config.layer_types)
    for causal in (True, False):
        # The default is symmetric, unless the drafter has sliding layers.
        if causal is current or (not causal and current is None and not sliding):
            continue
        name = f"{'causal' if causal else 'symmetric'} in the block"
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
    """Measure every plausible reading of a drafter.

    Args:
        folder: Folder of the drafter.
        target: A pair with its target. A drafter in this pair is not used.
        tokenizer: Tokenizer of the target.
        prompts, max_tokens: As in `measure`.
        progress: Called with each finished trial.

    Returns:
        The trials; the packaging's own reading is the first.

    Raises:
        DFlashError: The drafter cannot be loaded, or does not fit the target.
    """

    def run(trial: Trial) -> Trial:
        taps = trial.config.target_layer_ids
        if not all(0 <= tap < target.target.num_layers for tap in taps):
            return replace(
                trial, name=f"{trial.name} (its taps are not layers of the target)"
            )
        pair = Pair.of(
            target.model, with_config(drafter, trial.config), target.target.config
        )
        stats = measure(pair, tokenizer, prompts, max_tokens)
        first = stats.acceptance[0] if stats.acceptance else 0.0
        trial = replace(trial, tokens_per_round=stats.tokens_per_round, first=first)
        if progress:
            progress(trial)
        return trial

    drafter = load_folder(folder)
    check_pair(target.target.config, replace(drafter.config, target_layer_ids=(0,)))
    found = [run(t) for t in readings(drafter.config, target.target.num_layers)]
    return found + [run(trial) for trial in mask_trials(best_trial(found))]


def with_config(drafter: DFlash, config: DFlashConfig) -> DFlash:
    """A drafter with the same weights and another config."""
    copy = type(drafter)(config, drafter.window_limit)
    for name, module in drafter.items():
        copy[name] = module
    copy.eval()
    return copy


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The reading to use: the packaging's own, unless another is clearly better."""
    best = trials[0]
    # Another mask must be clearly better than the best anchor slot and taps.
    for mask in (False, True):
        group = [trial for trial in trials if trial.mask is mask]
        found = max(group, key=lambda trial: trial.tokens_per_round, default=best)
        if found.tokens_per_round > best.tokens_per_round * MARGIN:
            best = found
    return best
