"""Answers one request with a loaded model: tokens in, events out.

Owns the way from the engine's responses to parts of an answer: reasoning, text, tool
calls, logprobs. Runs in the model's thread. Does not know queues or dialects.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..decoding.requests import ChunkPassed
from ..decoding.requests import Request as PassRequest
from ..engine import answer_steps
from ..responses import GenerationResponse
from ..speculation.company import Company
from ..stats import Stats
from ..text.prompt import xtc_special_tokens
from ..text.reasoning import make_splitter
from ..text.tool_calls import CallBroken, CallEnd, CallStart, Text, make_parser
from ..types import Sampling
from .dialects.collect import Choice
from .dialects.openai import new_id
from .events import (
    Content,
    Done,
    Event,
    Finish,
    Part,
    Piece,
    Prefilled,
    Reasoning,
    Speed,
    Started,
    Step,
    TokenLogprob,
    Usage,
)
from .models import Loaded
from .prompt import Prepared
from .schema import Request
from .settings import Settings

CUT_CALL = "The call of {} was cut off at the token limit and is left out."
BROKEN_CALL = "A tool call could not be read and is given as text: {}"


class Stopped(Exception):
    """The answer is not wanted any more, or has taken too long."""


@dataclass(frozen=True)
class Turn:
    """What the answers to a request need.

    Args:
        request, prepared: What is answered.
        loaded: With which model.
        settings: The server's.
        emit: Receives the events, in lists.
        check: Called between rounds and between chunks of the prefill; raises Stopped.
        company: The answers that share passes.
    """

    request: Request
    prepared: Prepared
    loaded: Loaded
    settings: Settings
    emit: Callable[[list[Event]], None]
    check: Callable[[], None]
    company: Company


def answer(turn: Turn) -> Iterator[PassRequest | ChunkPassed]:
    """Answer a request. What it says is emitted; see `Turn`.

    Yields:
        As engine.answer_steps, beside responses.

    Raises:
        Stopped: From `turn.check`.
        DFlashError: The engine refuses the request.
    """
    usage, before = Usage(), Stats()
    for number in range(turn.request.choices):
        choice = ChoiceAnswer(turn, number)
        yield from choice.run()
        usage = add_usage(usage, choice.usage)
        choice.stats.add(before)
        before = choice.stats
    turn.emit([Done(usage, choice.summary())])


def add_usage(total: Usage, more: Usage) -> Usage:
    """The usage of several choices: their prompt counts once."""
    return Usage(
        more.prompt_tokens,
        total.cached_tokens if total.prompt_tokens else more.cached_tokens,
        total.completion_tokens + more.completion_tokens,
        total.reasoning_tokens + more.reasoning_tokens,
    )


class ChoiceAnswer:
    """One answer to a request.

    Args:
        turn: The request.
        number: The number of the choice.

    Attributes:
        usage: Tokens so far.
    """

    def __init__(self, turn: Turn, number: int):
        self.turn, self.number = turn, number
        request, prepared = turn.request, turn.prepared
        self.tokenizer = turn.loaded.tokenizer
        self.splitter = None
        if request.text is None:
            self.splitter = make_splitter(
                self.tokenizer, prepared.ids, prepared.continued
            )
        self.parser = None
        if prepared.format is not None:
            self.parser = make_parser(self.tokenizer, prepared.tools, prepared.format)
        self.usage = Usage()
        self.parts: list[Part] = []  # of this round
        self.whole = Choice()  # of all rounds
        self.logprobs: list[TokenLogprob] = []
        self.held: list[TokenLogprob] = []  # of text that may be a marker
        self.warnings: list[str] = []
        self.names: dict[int, str] = {}  # of calls that have begun
        self.called = self.ended = False  # a call is complete; no more is wanted
        self.stats: Stats | None = None
        self.first_at = 0.0  # seconds of the clock

    def run(self) -> Iterator[PassRequest | ChunkPassed]:
        """Answer, and emit the events. Yields as `answer`."""
        turn, ids = self.turn, self.turn.prepared.ids
        turn.check()
        cache = turn.loaded.prefixes.cache_for(ids)
        rest = cache.reuse(ids, turn.prepared.marks)
        cached = len(ids) - len(rest)
        self.usage = Usage(len(ids), cached)
        turn.emit([Started(len(ids), cached)])
        last = None
        with contextlib.closing(self._stream(rest, cache)) as steps:
            for step in steps:
                if not isinstance(step, GenerationResponse):
                    yield step
                    continue
                last = step
                self._add(last)
                if self.ended:
                    break
                round_ended = last.generation_tokens == last.stats.tokens
                if round_ended and last.finish_reason is None:
                    self._emit_step()
                    turn.check()
        self._finish(last)

    def _stream(self, rest, cache):
        turn, decoding = self.turn, self.turn.settings.decoding
        return answer_steps(
            turn.loaded.pair,
            self.tokenizer,
            rest,
            max_tokens=max_tokens(turn),
            sampling=sampling_of(turn, self.number),
            block_size=decoding.block_size,
            speculate=decoding.speculate,
            stop=(*turn.settings.defaults.stop, *turn.request.stop),
            prompt_cache=cache,
            prefill_step_size=decoding.prefill_step_size,
            kv_bits=decoding.kv_bits,
            kv_group_size=decoding.kv_group_size,
            quantized_kv_start=decoding.quantized_kv_start,
            prompt_progress_callback=self._prefilled,
            grammar=turn.prepared.grammar,
            company=turn.company,
        )

    def _prefilled(self, done, total):
        self.turn.check()
        cached = self.usage.cached_tokens
        self.turn.emit([Prefilled(cached + done, cached + total)])

    def _add(self, response: GenerationResponse) -> None:
        """Add the text of a token."""
        self.stats = response.stats
        self.first_at = self.first_at or time.perf_counter()
        before = self._state()
        said = False  # whether this token let text of the answer out
        for kind, text in self._split(response.text):
            if kind == "reasoning":
                self._add_reasoning(text)
            else:
                said = said or bool(text)
                self._add_answer(text, response.from_draft)
        self.usage = replace(
            self.usage,
            completion_tokens=self.usage.completion_tokens + 1,
            reasoning_tokens=self.usage.reasoning_tokens + (before == "reasoning"),
        )
        is_end = response.token in self.tokenizer.eos_token_ids
        if self.turn.request.logprobs is not None and not is_end:
            self._add_logprob(response, before, said)

    def _add_logprob(self, response, before, said):
        """Keep a token's logprob back until its text is known to be of the answer."""
        state = self._state()
        if not said and state != before:
            self.held = []  # they were a marker
        elif "reasoning" not in (before, state):
            asked = self.turn.request.logprobs
            self.held.append(token_logprob(self.tokenizer, response, asked))
        if said:
            self.logprobs, self.held = self.logprobs + self.held, []

    def _state(self):
        return "answer" if self.splitter is None else self.splitter.state

    def _split(self, text):
        if self.splitter is None:
            return [("answer", text)] if text else []
        return self.splitter.push(text)

    def _add_reasoning(self, text):
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Reasoning):
            self.parts[-1] = Reasoning(last.text + text)
        else:
            self.parts.append(Reasoning(text))

    def _add_answer(self, text, drafted):
        if self.parser is None:
            self._add_content(text, (Piece(text, drafted),))
            return
        for event in self.parser.push(text):
            self._add_event(
                event, (Piece(event.text, drafted),) if event == Text(text) else ()
            )

    def _add_content(self, text, pieces):
        last = self.parts[-1] if self.parts else None
        if isinstance(last, Content) and bool(last.pieces) == bool(pieces):
            self.parts[-1] = Content(last.text + text, last.pieces + pieces)
        elif text:
            self.parts.append(Content(text, pieces))

    def _add_event(self, event, pieces=()):
        if self.ended:
            return
        match event:
            case Text(text):
                self._add_content(text, pieces)
                return
            case CallStart(index, id, name):
                self.names[index] = name
                event = CallStart(index, id or new_id("call_"), name)
            case CallEnd():
                self.called = True
                self.ended = not self.turn.request.tool_choice.parallel
            case CallBroken(index, _, reason, truncated):
                name = self.names.get(index, "a tool")
                words = (
                    CUT_CALL.format(name) if truncated else BROKEN_CALL.format(reason)
                )
                self.warnings.append(words)
        self.parts.append(event)

    def _emit_step(self):
        for part in self.parts:
            self.whole.add(part)
        step = Step(self.number, tuple(self.parts), tuple(self.logprobs), self.speed())
        self.parts, self.logprobs = [], []
        self.turn.emit([step])

    def speed(self) -> Speed:
        """How fast the answer is so far."""
        tokens, spent = self.stats.tokens, time.perf_counter() - self.first_at
        rate = (tokens - 1) / spent if tokens > 1 and spent > 0 else None
        return Speed(rate, self.stats.tokens_per_round, self.stats.shown_speedup)

    def _finish(self, last: GenerationResponse) -> None:
        """Add the text that was held back, and end the choice."""
        cut = last.finish_reason == "length"
        for kind, text in self.splitter.close() if self.splitter else ():
            if kind == "reasoning":
                self._add_reasoning(text)
            else:
                self._add_answer(text, False)
        if self.parser is not None:
            for event in self.parser.close(truncated=cut):
                self._add_event(event)
            self.warnings += self.parser.warnings
        self.logprobs += self.held
        self._emit_step()
        self.turn.loaded.reasonings.put(self.whole)
        reason = "tool_calls" if self.called else last.finish_reason or "stop"
        warnings = tuple(self.warnings)
        self.turn.emit([Finish(self.number, reason, last.stop_string, warnings)])

    def summary(self) -> dict[str, Any]:
        """The answer's statistics."""
        return {
            "tokens_per_second": self.speed().tokens_per_second,
            **self.stats.as_dict(),
            "accepted_at": self.stats.accepted_at,
            "speedup": self.stats.shown_speedup,
        }


def max_tokens(turn: Turn) -> int:
    """Most tokens of an answer: what is asked, within the server's limits."""
    asked = turn.request.max_tokens
    most = turn.settings.defaults.max_tokens if asked is None else asked
    limits = turn.settings.limits
    room = [most] if most != -1 else []
    if limits.max_tokens is not None:
        room.append(limits.max_tokens)
    if limits.context is not None:
        room.append(limits.context - len(turn.prepared.ids))
    return min(room) if room else -1


def sampling_of(turn: Turn, number: int) -> Sampling:
    """How the tokens of a choice are chosen: the request's values over the defaults.

    Each choice has a seed of its own, counted from the request's.
    """
    given = replace(turn.settings.defaults.sampling, **turn.request.sampling)
    if given.temp == 0:
        return given
    seed = secrets.randbelow(2**32) if given.seed is None else given.seed
    kept = xtc_special_tokens(turn.loaded.tokenizer) if given.xtc_probability else ()
    return replace(given, seed=(seed + number) % 2**32, xtc_special_tokens=kept)


def token_logprob(
    tokenizer: Any, response: GenerationResponse, top: int
) -> TokenLogprob:
    """The logprob of a token, and of the `top` most likely ones there."""
    values = np.array(response.logprobs.astype(mx.float32))
    best = np.argpartition(-values, min(top, len(values) - 1))[:top]
    best = best[np.argsort(-values[best])]
    found = tuple(
        (tokenizer.decode([int(i)]), float(values[i]))
        for i in best
        if np.isfinite(values[i])
    )
    text = tokenizer.decode([response.token])
    return TokenLogprob(text, float(values[response.token]), found)
