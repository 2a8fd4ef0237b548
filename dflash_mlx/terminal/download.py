"""Downloads before a load: what is fetched, and whether disk and memory have room.

Owns the notices, and the order: disk and memory are checked before anything large is
fetched. Never asks the user. Does not know the Hub (hub/download.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import device
from ..errors import MissingFilesError, NotEnoughDiskError
from ..hub import download, registry
from ..hub.config import read_config
from ..hub.download import Plan
from ..hub.find import choose_drafter, folder_of_target
from ..loading import check_sizes
from .screen import progress

# Tokens that the estimate of the KV cache is for: a long conversation.
CONTEXT = 8192
BYTES_PER_VALUE = 2

Notice = Callable[[str], None]


def fetch(
    model: str,
    draft: str | None = None,
    revision: str | None = None,
    *,
    notice: Notice,
    show_progress: bool | None = None,
) -> None:
    """Download what `loading.load` needs and the cache lacks, after a notice.

    Args:
        model, draft, revision: As in `loading.load`.
        notice: Called with each line of the notice.
        show_progress: Display progress on stderr; None does on a terminal.

    Raises:
        DFlashError: A repository is not available, or disk or memory are too small.
    """
    if note := registry.note_on_name(model):
        notice(note)
    name = registry.resolve(model)
    shown = progress.wanted() if show_progress is None else show_progress
    with progress.spinner(f"Looking for {model}", shown):
        config, plans = plan_downloads(model, draft, revision)
    if plans:
        check_sizes({who: plan.weights for who, plan in plans.items()})
        report_plans(list(plans.values()), kv_bytes(config, CONTEXT), notice)
    for plan in plans.values():
        try:
            with progress.bars(shown) as bars:
                download.download(plan.name, plan.revision, bars)
        except MissingFilesError:
            # Without a drafter that was found, not named, `load` decodes plainly.
            if draft or plan.name == name:
                raise


def plan_downloads(
    model: str, draft: str | None, revision: str | None
) -> tuple[dict[str, Any], dict[str, Plan]]:
    """Find out what has to be fetched.

    Returns:
        The target's config.json, and the plan of each repository to fetch, by what
        needs it.

    Raises:
        MissingFilesError: A repository that is needed is not available.
    """
    name = registry.resolve(model)
    plans = {"the target": plan_repository(name, revision)}
    if plans["the target"]:
        config = read_config(download.fetch_file(name, "config.json", revision).parent)
    else:
        config = read_config(folder_of_target(model, revision))
    drafter, _ = choose_drafter(config, f"{model} {name}", draft)
    if drafter is not None:
        plans["the drafter"] = plan_repository(
            registry.resolve_drafter(drafter), required=draft is not None
        )
    return config, {who: plan for who, plan in plans.items() if plan is not None}


def plan_repository(
    name: str, revision: str | None = None, required: bool = True
) -> Plan | None:
    """What has to be fetched of a repository; None for nothing.

    Args:
        name: A folder, Hub id, or embedded model.
        revision: Branch, tag or commit.
        required: Fail if the repository is not available.

    Raises:
        MissingFilesError: It is required and not available.
    """
    if name in registry.EMBEDDED or Path(os.path.expanduser(name)).is_dir():
        return None
    if download.cached_folder(name, revision):
        return None
    plan = download.plan(name, revision)
    if plan is None and required:
        download.download(name, revision)  # raises the error with the reason
    return plan


def report_plans(plans: list[Plan], context_bytes: int, notice: Notice) -> None:
    """Say what is fetched, and how much disk and memory it takes.

    Args:
        plans: Of each repository.
        context_bytes: Estimated size of the KV cache.
        notice: Called with each line.

    Raises:
        NotEnoughDiskError: The disk is too small.
    """
    parts = []
    for plan in plans:
        size = format_size(plan.total)
        if plan.cached:
            size += f", {format_size(plan.cached)} of it downloaded already"
        parts.append(f"{plan.name} ({size})")
    notice(f"Downloading {' and '.join(parts)}.")
    needed = sum(plan.total - plan.cached for plan in plans)
    weights = sum(plan.weights for plan in plans)
    free, folder = download.free_bytes()
    memory = device.memory_bytes()
    notice(
        f"Disk: {format_size(needed)} needed, {format_size(free)} free in {folder}. "
        f"Memory: {format_size(weights)} for weights and about "
        f"{format_size(context_bytes)} for {CONTEXT} tokens of context, "
        f"{format_size(memory)} available."
    )
    if needed > free:
        raise NotEnoughDiskError(
            f"The download needs {format_size(needed)}, but {folder} has "
            f"{format_size(free)} left.",
            "Free some space (`hf cache rm` removes models), or set HF_HOME to a "
            "folder on a larger disk.",
        )
    if weights + context_bytes > memory:
        notice(
            "Warning: long conversations will not fit into memory. Use a smaller "
            "model, --kv-bits 8 or --max-kv-size."
        )


def kv_bytes(config: dict[str, Any], tokens: int) -> int:
    """Estimate the size of a KV cache in 16 bits.

    Args:
        config: The target's config.json.
        tokens: The number of tokens in it.

    Returns:
        Bytes; 0 if the config does not say.
    """
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    heads = text.get("num_attention_heads") or 0
    if rank := text.get("kv_lora_rank"):
        row = rank + text.get("qk_rope_head_dim", 0)
    elif heads:
        width = text.get("head_dim") or text.get("hidden_size", 0) // heads
        row = 2 * (text.get("num_key_value_heads") or heads) * width
    else:
        return 0
    return BYTES_PER_VALUE * full_attention_layers(text) * row * tokens


def full_attention_layers(text: dict[str, Any]) -> int:
    """The number of layers that keep all keys and values.

    Layers with a sliding window or a recurrent state do not.
    """
    if kinds := text.get("layer_types"):
        return sum(kind in ("full_attention", "attention") for kind in kinds)
    layers = text.get("num_hidden_layers") or text.get("num_layers") or 0
    return layers // (text.get("full_attention_interval") or 1)


def format_size(count: int) -> str:
    """Bytes in GiB, MiB or KiB."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"
