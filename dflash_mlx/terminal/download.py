"""Before a download: what is fetched, how large it is, whether it fits here.

Owns what a user is told, and the order: disk and memory are asked before anything large
is fetched. No question is ever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import device
from ..errors import MissingFilesError, NotEnoughDiskError
from ..hub import download, registry
from ..hub.download import Plan
from ..hub.find import folder_of_target, name_drafter, read_config
from ..loading import check_sizes
from .screen import progress

# The KV cache is told for so many tokens: what a conversation may come to.
CONTEXT = 8192
KV_BYTES = 2

Notice = Callable[[str], None]


def fetch(
    model: str,
    draft: str | None = None,
    revision: str | None = None,
    *,
    notice: Notice,
    shown: bool | None = None,
) -> None:
    """Download what `loading.load` will need and the cache lacks; say it first.

    Args:
        model, draft, revision: As in `loading.load`.
        notice: Told the lines.
        shown: Show progress on stderr; None is on a terminal.

    Raises:
        DFlashError: It cannot be had, or disk or memory are too small for it.
    """
    name = registry.resolve(model)
    shown = progress.wanted() if shown is None else shown
    with progress.spinner(f"Looking for {model}", shown):
        config, plans = planned(model, draft, revision)
    if plans:
        check_sizes({who: plan.weights for who, plan in plans.items()})
        tell(list(plans.values()), kv_bytes(config, CONTEXT), notice)
    for plan in plans.values():
        try:
            with progress.bars(shown) as bars:
                download.download(plan.name, plan.revision, bars)
        except MissingFilesError:
            # Without a drafter that nobody named, `load` goes on, and says so.
            if draft or plan.name == name:
                raise


def planned(
    model: str, draft: str | None, revision: str | None
) -> tuple[dict[str, Any], dict[str, Plan]]:
    """The target's config.json, and what is to be fetched, by who needs it.

    Raises:
        MissingFilesError: Something that is needed cannot be had.
    """
    name = registry.resolve(model)
    plans = {"the target": absent(name, revision)}
    if plans["the target"]:
        config = read_config(download.fetch_file(name, "config.json", revision).parent)
    else:
        config = read_config(folder_of_target(model, revision))
    drafter, _ = name_drafter(config, f"{model} {name}", draft)
    if drafter is not None:
        plans["the drafter"] = absent(
            registry.resolve_drafter(drafter), needed=draft is not None
        )
    return config, {who: plan for who, plan in plans.items() if plan is not None}


def absent(name: str, revision: str | None = None, needed: bool = True) -> Plan | None:
    """What a model's download would fetch; None where there is nothing to do.

    Args:
        name: A folder, Hub id, or embedded model.
        revision: Branch, tag or commit.
        needed: False leaves it to `load` to do without.

    Raises:
        MissingFilesError: It is needed, and the Hub does not have it for us.
    """
    if name in registry.EMBEDDED or Path(name).expanduser().is_dir():
        return None
    if download.cached_folder(name, revision):
        return None
    plan = download.plan(name, revision)
    if plan is None and needed:
        download.download(name, revision)  # fails, and says why
    return plan


def tell(plans: list[Plan], context: int, notice: Notice) -> None:
    """What is fetched, and what disk and memory have for it.

    Args:
        plans: Each repository.
        context: Bytes of the KV cache.
        notice: Told the lines.

    Raises:
        NotEnoughDiskError: The disk is too small.
    """
    parts = []
    for plan in plans:
        rest = f", of which {size(plan.cached)} are here" if plan.cached else ""
        parts.append(f"{plan.name} ({size(plan.total)}{rest})")
    notice(f"Downloading {' and '.join(parts)}.")
    needed = sum(plan.total - plan.cached for plan in plans)
    weights = sum(plan.weights for plan in plans)
    free, folder = download.free_bytes()
    have = device.memory_bytes()
    notice(
        f"Disk: {size(needed)} of {size(free)} free in {folder}. Memory: "
        f"{size(weights)} of weights and about {size(context)} for {CONTEXT} tokens "
        f"of context, of {size(have)}."
    )
    if needed > free:
        raise NotEnoughDiskError(
            f"The download needs {size(needed)}, but {folder} has {size(free)} left.",
            "Free some space (`hf cache rm` removes models), or set HF_HOME to a "
            "folder on a larger disk.",
        )
    if weights + context > have:
        notice(
            "Warning: that is more memory than there is. Long conversations will not "
            "fit: use a smaller model, --kv-bits 8 or --max-kv-size."
        )


def kv_bytes(config: dict[str, Any], tokens: int) -> int:
    """About how much the KV cache of so many tokens takes, in 16 bits.

    Args:
        config: The target's config.json; 0 where it does not tell.
        tokens: Rows of context.
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
    return KV_BYTES * attending(text) * row * tokens


def attending(text: dict[str, Any]) -> int:
    """How many layers keep all keys and values; those of a window or a state do not."""
    if kinds := text.get("layer_types"):
        return sum(kind in ("full_attention", "attention") for kind in kinds)
    return text["num_hidden_layers"] // (text.get("full_attention_interval") or 1)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"
