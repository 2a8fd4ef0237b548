"""Shows turns of a conversation again, as they looked when they were answered.

Owns their layout, on stderr. Does not know sessions or files.
"""

from __future__ import annotations

import sys

from rich.text import Text

from ..screen.display import can_repaint
from ..screen.markdown import MarkdownStream
from ..screen.region import answer_console, escape_controls
from ..screen.status import DIM, print_message
from .conversation import Conversation
from .editor import PROMPT, PROMPT_STYLE


def print_turns(conversation: Conversation, turns: int | None = None) -> None:
    """Print the last turns of a conversation, the oldest first.

    Args:
        conversation: It may end in a message without an answer.
        turns: The number of turns; None for all.
    """
    messages = conversation.messages
    questions = [i for i, each in enumerate(messages) if each.role == "user"]
    first = questions[-turns:][0] if turns and questions else 0
    for each in messages[first:]:
        if each.role == "user":
            print_question(each.content)
        else:
            print_answer(each.content, bool(each.reasoning))
    if conversation.unanswered:
        print_message("(no answer yet; /retry answers it)", DIM)


def print_question(text: str) -> None:
    """Print a message of the user's behind the prompt, which has its colour."""
    console = answer_console(sys.stderr)
    colour = PROMPT_STYLE.removeprefix("ansi")
    if not console.is_terminal or console.no_color:
        colour = ""
    line = Text.assemble((PROMPT, colour), escape_controls(text))
    console.print(line, soft_wrap=True)


def print_answer(text: str, reasoned: bool) -> None:
    """Print an answer, with its Markdown rendered on a terminal."""
    console = answer_console(sys.stderr)
    if reasoned:
        print_message("(its reasoning is not shown)", DIM)
    if can_repaint(console):
        stream = MarkdownStream(console)
        stream.write(text)
        stream.close()
        console.print()
    else:
        print_message(text)
