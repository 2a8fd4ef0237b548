"""One turn: a prompt in, an answer on the display, Ctrl-C heeded between two rounds.

Owns the interruption. Knows no conversation and no commands.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper
from rich.console import Console

from ...cache.prompt_cache import PromptCache
from ...engine import GenerationResponse
from ...pair import Pair
from ..answer_request import AnswerRequest


class Display(Protocol):
    """Shows an answer while it comes; `answer` and `reasoning` are its texts so far."""

    console: Console
    answer: str
    reasoning: str

    def push(self, response: GenerationResponse) -> None:
        """Show the next token."""

    def close(self) -> None:
        """Show what is held back, and end the line."""


class Stopped(Exception):
    """The user wants no answer any more; raised while the prompt is read."""


class Stop:
    """Ctrl-C as a wish, for the time of an answer: `asked` tells of it.

    The second one is a KeyboardInterrupt, wherever the program is.
    """

    def __init__(self):
        self.asked = False

    def __enter__(self) -> Stop:
        self._before = signal.signal(signal.SIGINT, self._wish)
        return self

    def __exit__(self, *error) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self, done: int, total: int) -> None:
        """Leave a prefill between two of its chunks: progress calls this."""
        if self.asked and done < total:
            raise Stopped

    def _wish(self, *signal):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@dataclass(frozen=True)
class Turn:
    """What came of a prompt.

    Args:
        last: The last response; None if the prefill was stopped.
        stopped: Ctrl-C ended it.
    """

    last: GenerationResponse | None
    stopped: bool


def take(
    ask: AnswerRequest,
    pair: Pair,
    tokenizer: TokenizerWrapper,
    ids: list[int],
    cache: PromptCache,
    display: Display,
    marks: Collection[int] = (),
    reading: Callable[[int, int], None] | None = None,
) -> Turn:
    """Answer a prompt on a display.

    Args:
        ask: The options.
        pair, tokenizer: From its `open`.
        ids: The whole prompt; what `cache` holds of it is not computed again.
        cache: Holds prompt and answer afterwards, however that ended.
        display: Is closed afterwards.
        marks: As in `cache.reuse`.
        reading: Told of the prompt's progress.

    Raises:
        DFlashError: The prompt or an option is refused.
    """
    last, stopped, told = None, False, []
    with Stop() as stop:

        def progress(done, total):
            if reading is not None:
                reading(done, total)
            stop.check(done, total)

        try:
            rest = cache.reuse(ids, marks)
            stream = ask.stream(pair, tokenizer, rest, cache, progress)
            with contextlib.closing(stream) as responses:
                for last in responses:
                    display.push(last)
                    told.append((last.token, len(last.text)))
                    # Tokens of a round are in the caches together: all are told.
                    between = last.generation_tokens == last.stats.tokens
                    if stop.asked and between and last.finish_reason is None:
                        stopped = True
                        display.push(replace(last, text=held_back(tokenizer, told)))
                        break
        except (Stopped, KeyboardInterrupt):
            stopped = True
        finally:
            display.close()
    return Turn(last, stopped)


def held_back(tokenizer: TokenizerWrapper, told: list[tuple[int, int]]) -> str:
    """The end of a stopped answer's text that waited for its next token.

    Args:
        tokenizer: Spells the tokens.
        told: Each token, and how many characters were told with it.
    """
    detokenizer = tokenizer.detokenizer
    for token, _ in told:
        detokenizer.add_token(token)
    detokenizer.finalize()
    shown = sum(length for _, length in told)
    return detokenizer.text[shown:].rstrip("\ufffd")
