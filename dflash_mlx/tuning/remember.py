"""Keeps what a pair's answers have shown about drafting, from process to process.

Owns the file and its keys: one entry of a few kilobytes per pair, for the pairs that
answered last. Nothing in it depends on what was asked or answered, except how many
drafts were kept. Does not know what the numbers mean; see speculation/controller.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

from ..hub.registry import numbers_of
from ..models import fingerprint
from ..pair import Pair
from ..store import Store, cache_folder, ignore
from .calibrate import machine

MOST_PAIRS = 32


def default_file() -> Path:
    """The file of this user."""
    return cache_folder() / "answers.json"


def pair_key(pair: Pair) -> str:
    """What acceptance depends on, as text."""
    numbers = ", ".join(str(n) for n in numbers_of(pair.target.config).values())
    target = fingerprint.of_target(pair.target)[:16]
    drafter = fingerprint.of_drafter(pair.drafter)[:16]
    return f"drafter {drafter} for target {target}, {numbers}"


def remember(
    pair: Pair, notice: Callable[[str], None] = ignore, store: Store | None = None
) -> Pair:
    """Restore what earlier processes have learnt of a pair, and let it write the same.

    Args:
        pair: Its `history` is changed. Without a drafter, nothing is done.
        notice: As in Store.
        store: Where it is kept; this user's file by default.

    Returns:
        The pair with a function in `after_answer` that writes its history in another
        thread, so that nobody waits.
    """
    if pair.drafter is None:
        return pair
    store = store or Store(machine(), default_file(), notice)
    key = pair_key(pair)
    entry = store.all().get(key)
    # There may be none, or one that another version wrote.
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        pair.history.restore(entry["history"])

    def write():
        entry = {"history": pair.history.to_json(), "written": time.time()}
        Thread(target=put, args=(store, key, entry)).start()

    return replace(pair, after_answer=write)


def put(store: Store, key: str, entry: dict) -> None:
    """Write an entry, and remove those that were written longest ago."""
    store.put(key, entry)
    entries = sorted(store.all().items(), key=lambda item: item[1].get("written", 0))
    for old, _ in entries[: max(0, len(entries) - MOST_PAIRS)]:
        store.forget(old)
