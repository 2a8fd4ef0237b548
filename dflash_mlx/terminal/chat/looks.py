"""The options of the chat that generate does not have.

Imports nothing heavy. Does not know how an answer is displayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .. import shell_completion
from ..options import OUTPUT, PROMPT, check_choice, option

REASONING = ("show", "fold", "hide")


@dataclass(frozen=True)
class Looks:
    """How a chat displays answers, and which conversation it continues."""

    markdown: Annotated[
        bool,
        option("--markdown/--no-markdown", "Render Markdown on the terminal.", OUTPUT),
    ] = True
    show_drafts: Annotated[
        bool, option("--show-drafts", "Colour the tokens that were drafted.", OUTPUT)
    ] = False
    reasoning: Annotated[
        str,
        option(
            "--reasoning",
            "How reasoning is displayed: show dims it, fold shortens it to a line, "
            "hide leaves it out.",
            OUTPUT,
            metavar="MODE",
            autocompletion=shell_completion.words(*REASONING),
        ),
    ] = "show"
    load: Annotated[
        Path | None,
        option(
            "--load",
            "Conversation to continue, a file written by /save.",
            PROMPT,
            dir_okay=False,
            exists=True,
        ),
    ] = None

    def __post_init__(self):
        check_choice(self.reasoning, "--reasoning", *REASONING)
