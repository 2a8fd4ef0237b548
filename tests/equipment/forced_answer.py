"""Makes a server's model say what a test wants."""

from __future__ import annotations

import json
from dataclasses import replace

from dflash_mlx.server import scheduler
from dflash_mlx.server.prompt import prepare
from dflash_mlx.server.schema import Constraint


def say(monkeypatch, text: str) -> None:
    """Make the model say a text, whatever is asked.

    Args:
        monkeypatch: Pytest's fixture.
        text: Markers of reasoning and of tool calls included.
    """
    forced = Constraint("lark", f"start: {json.dumps(text)}")

    def forcing(request, *more):
        return prepare(replace(request, constraint=forced, thinking=False), *more)

    monkeypatch.setattr(scheduler, "prepare", forcing)
