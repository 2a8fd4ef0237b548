"""One turn: answers a prompt on a display, and stops between rounds on Ctrl-C.

Owns the handling of Ctrl-C. Does not know conversations or commands.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_lm.tokenizer_utils import TokenizerWrapper
from rich.console import Console

from ...cache.prompt_cache import PromptCache
from ...pair import Pair
from ...responses import GenerationResponse
from ...text.detokenizer import Detokenizer
from ..answer_request import AnswerRequest


class Display(Protocol):
    """Displays an answer as it arrives.

    Attributes:
        console: Where the answer is displayed.
        answer, reasoning: The texts so far.
    """

    console: Console
    answer: str
    reasoning: str

    def push(self, response: GenerationResponse) -> None:
        """Display the next response."""

    def close(self) -> None:
        """Display the text that was held back, and end the line."""


class PrefillStopped(Exception):
    """Ctrl-C was pressed during the prefill."""


class StopRequest:
    """Defers Ctrl-C while an answer is computed; a context manager.

    A second Ctrl-C raises KeyboardInterrupt at once.

    Attributes:
        requested: Whether Ctrl-C was pressed.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check_prefill(self, done: int, total: int) -> None:
        """Raise PrefillStopped between two chunks of the prefill if requested."""
        if self.requested and done < total:
            raise PrefillStopped

    def _handle(self, *signal) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@dataclass(frozen=True)
class Outcome:
    """How a turn ended.

    Args:
        last: The last response; None if the prefill was stopped.
        stopped: Ctrl-C ended it.
    """

    last: GenerationResponse | None
    stopped: bool

    @property
    def cut_short(self) -> bool:
        """Whether the model would have written more."""
        last = self.last
        return last is not None and (self.stopped or last.finish_reason == "length")


def answer_prompt(
    request: AnswerRequest,
    pair: Pair,
    tokenizer: TokenizerWrapper,
    ids: list[int],
    cache: PromptCache,
    display: Display,
    marks: Collection[int] = (),
    prefill_progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Answer a prompt on a display.

    Args:
        request: The options.
        pair, tokenizer: From request.load.
        ids: The whole prompt; the part that `cache` holds is not computed again.
        cache: Afterwards holds the prompt and the answer, however the turn ended.
        display: Is closed afterwards.
        marks: As in PromptCache.reuse.
        prefill_progress: Called with (prompt tokens done, prompt tokens in total).

    Raises:
        DFlashError: The prompt or an option is refused.
    """
    last, stopped, emitted = None, False, []
    with StopRequest() as stop:

        def progress(done, total):
            if prefill_progress is not None:
                prefill_progress(done, total)
            stop.check_prefill(done, total)

        try:
            rest = cache.reuse(ids, marks)
            stream = request.stream(pair, tokenizer, rest, cache, progress)
            with contextlib.closing(stream) as responses:
                for last in responses:
                    display.push(last)
                    emitted.append((last.token, len(last.text)))
                    # The caches hold all tokens of a round, so all are displayed.
                    round_ended = last.generation_tokens == last.stats.tokens
                    if stop.requested and round_ended and last.finish_reason is None:
                        stopped = True
                        text = held_back_text(tokenizer, emitted, ids)
                        display.push(replace(last, text=text))
                        break
        except (PrefillStopped, KeyboardInterrupt):
            stopped = True
        finally:
            display.close()
    return Outcome(last, stopped)


def held_back_text(
    tokenizer: TokenizerWrapper,
    emitted: list[tuple[int, int]],
    prompt: Sequence[int] = (),
) -> str:
    """The end of a stopped answer that still waited for its next token.

    Args:
        tokenizer: The answer's tokenizer.
        emitted: Each token, and the number of characters emitted with it.
        prompt: The tokens before these.
    """
    detokenizer, text = Detokenizer(tokenizer, prompt), ""
    for token, _ in emitted:
        detokenizer.add_token(token)
        text += detokenizer.last_segment
    detokenizer.finalize()
    text += detokenizer.last_segment
    length = sum(characters for _, characters in emitted)
    return text[length:].rstrip("\ufffd")
