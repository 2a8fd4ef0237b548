"""A chat session without a terminal: scripted lines, a loaded model, Ctrl-C on cue."""

import signal
from dataclasses import dataclass
from typing import Any

from dflash_mlx import Sampling
from dflash_mlx.terminal.answer_request import AnswerRequest
from dflash_mlx.terminal.chat.repl import handle_line
from dflash_mlx.terminal.chat.session import Session

COUNT = "Count from 1 to 30."
VOWELS = "List the vowels with numbers."
VOWELS_ANSWER = "1. a\n2. e\n3. i\n4. o\n5. u"
ENDLESS = Sampling(logit_bias={2: -100.0})  # the answer never ends by itself


class ScriptedReader:
    """A reader of given lines.

    Args:
        lines: What read, edit and paste return. read raises KeyboardInterrupt; edit
            returns None for it.

    Attributes:
        lines: The lines that were not read yet.
        offered: The texts that were offered for editing.
    """

    terminal = can_edit = True

    def __init__(self, *lines):
        self.lines, self.offered = list(lines), []

    def read(self):
        line = self.lines.pop(0) if self.lines else None
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line

    paste = read

    def edit(self, text):
        self.offered.append(text)
        try:
            return self.read()
        except KeyboardInterrupt:
            return None


@dataclass(frozen=True)
class ScriptedRequest(AnswerRequest):
    """A request with a loaded model, which presses Ctrl-C at given tokens.

    Args:
        loaded: The pair and its tokenizer.
        presses: The tokens of the answer after which Ctrl-C is pressed.
        in_prompt: The number of prompt tokens after which Ctrl-C is pressed.
    """

    loaded: Any = None
    presses: tuple[int, ...] = ()
    in_prompt: int | None = None

    def load(self):
        return self.loaded

    def stream(self, pair, tokenizer, prompt, cache, progress=None):
        waiting = [] if self.in_prompt is None else [self.in_prompt]

        def press_in_prompt(done, total):
            if waiting and done >= waiting[0]:
                waiting.clear()
                signal.raise_signal(signal.SIGINT)
            progress(done, total)

        for n, response in enumerate(
            super().stream(pair, tokenizer, prompt, cache, press_in_prompt), 1
        ):
            if n in self.presses:
                signal.raise_signal(signal.SIGINT)
            yield response


def make_session(loaded, *lines, reader=None, **options):
    """A session of a loaded pair; its reader has these lines unless one is given."""
    request = ScriptedRequest(loaded=loaded, **{"max_tokens": 60} | options)
    return Session(request, reader or ScriptedReader(*lines))


def enter(session, *lines):
    """Enter lines; the texts of the conversation's messages afterwards."""
    for line in lines:
        handle_line(session, line)
    return [each.content for each in session.conversation.messages]
