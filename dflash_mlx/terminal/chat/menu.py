"""The menu of models at the start of a chat without --model, on a terminal.

Owns which models it offers. Does not load or download them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ... import device
from ...hub.registry import TINY
from ..download import format_size
from ..models import KnownModel, known_models
from ..screen.status import ERROR, print_message

# Most models beside the embedded one, and most tries at an answer.
LENGTH, TRIES = 7, 3
TOY = "a toy for arithmetic"
OTHERS = "`dflash-mlx models` lists all; `dflash-mlx chat MODEL` starts one."


def wanted() -> bool:
    """Whether there is somebody who sees a menu and can answer."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams)


def choose_model(read: Callable[[], str] | None = None) -> str | None:
    """Let the user choose a model that fits this machine's memory.

    Args:
        read: Reads a line, with its line end; by default from stdin.

    Returns:
        An alias; None at the end of the input.
    """
    offered = offered_models(known_models())
    usual = next((m.alias for m in offered if m.folder and not m.is_toy), TINY)
    print_message(f"Models that fit this machine ({memory_text()}):")
    for number, model in enumerate(offered, 1):
        print_message(f"  {number}  {menu_line(model)}")
    print_message(OTHERS, "dim")
    for _ in range(TRIES):
        print(f"Number or name [{usual}]: ", end="", file=sys.stderr, flush=True)
        line = (read or sys.stdin.readline)()
        if not line:
            return None
        answer = line.strip()
        if not answer:
            return usual
        if not answer.isdecimal():
            return answer
        if 1 <= int(answer) <= len(offered):
            return offered[int(answer) - 1].alias
        print_message(f"Choose a number from 1 to {len(offered)}.", ERROR)
    return None


def offered_models(models: list[KnownModel]) -> list[KnownModel]:
    """The models of the menu: those that are downloaded, then some that fit, from small
    to large, and the embedded one at the end. Each has a drafter that runs."""
    usable = [each for each in models if each.drafter and not each.is_toy]
    fitting = [each for each in usable if each.fits]
    fitting.sort(key=lambda each: each.least_memory or 0)
    here = [each for each in fitting if each.folder][:LENGTH]
    others = [each for each in fitting if each not in here]
    room = LENGTH - len(here)
    if len(others) > room:  # some of every size, and the largest
        others = [others[(i + 1) * len(others) // room - 1] for i in range(room)]
    return here + others + [each for each in models if each.is_toy]


def menu_line(model: KnownModel) -> str:
    """A model in the menu: its name, its size, and whether it is here."""
    if model.is_toy:
        return f"{model.alias:16}  {model.here:>9}  {TOY}"
    state = "downloaded" if model.folder else ""
    return f"{model.alias:16}  {model.download_size:>9}  {state}".rstrip()


def memory_text() -> str:
    """This machine's memory for models."""
    return format_size(device.memory_bytes())
