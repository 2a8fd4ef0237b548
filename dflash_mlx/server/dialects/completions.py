"""OpenAI's completions: text goes on, without a chat template.

Owns the fields of /v1/completions. Does not know how an answer is made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import unsupported
from ..events import Content, Done, Event, Failed, Finish, Step, TokenLogprob
from ..schema import MAX_CHOICES, Request, SamplingFields, parse_body, require_field
from .chat import Extension, StreamOptions
from .collect import Collected
from .dialect import data_frame
from .openai import (
    OpenAIDialect,
    error_body,
    new_id,
    progress_comment,
    read_max_tokens,
    read_stop,
    read_structured_outputs,
    usage_body,
)

MAX_LOGPROBS = 5


class CompletionBody(SamplingFields):
    """The fields of a completion request that are honoured."""

    model: str | None = None
    prompt: Any = None
    suffix: str | None = None
    max_tokens: int | None = None
    stop: Any = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    logprobs: int | None = None
    structured_outputs: dict[str, Any] | None = None
    dflash: Extension = Extension()


class Completions(OpenAIDialect):
    """The dialect of /v1/completions."""

    def request(self, body: Mapping[str, Any]) -> Request:
        """As in Dialect."""
        fields = parse_body(CompletionBody, body)
        if fields.echo:
            raise unsupported("echo", "echo")
        if fields.best_of not in (None, fields.n):
            raise unsupported("best_of", "best_of", "Use n.")
        require_field(
            1 <= fields.n <= MAX_CHOICES, "n", f"1 to {MAX_CHOICES}", fields.n
        )
        most = fields.logprobs
        fits = most is None or 0 <= most <= MAX_LOGPROBS
        require_field(fits, "logprobs", f"0 to {MAX_LOGPROBS}", most)
        outputs = fields.structured_outputs
        return Request(
            model=fields.model,
            text=read_prompt(fields.prompt),
            suffix=fields.suffix,
            constraint=None if outputs is None else read_structured_outputs(outputs),
            sampling=fields.sampling(),
            max_tokens=read_max_tokens(("max_tokens", fields.max_tokens)),
            stop=read_stop(fields.stop),
            choices=fields.n,
            logprobs=most,
            show_drafts=fields.dflash.drafts,
        )

    def writer(
        self, body: Mapping[str, Any], request: Request, model: str
    ) -> CompletionWriter:
        """As in Dialect."""
        options = body.get("stream_options") or {}
        return CompletionWriter(request, model, bool(options.get("include_usage")))


def read_prompt(prompt: Any) -> str | tuple[int, ...]:
    """The prompt: text, token ids, or a list of one of these.

    Raises:
        RequestError: It is something else, or several prompts.
    """
    if isinstance(prompt, list) and len(prompt) == 1 and not is_token(prompt[0]):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(is_token(each) for each in prompt):
        return tuple(prompt)
    if isinstance(prompt, list) and len(prompt) > 1:
        raise unsupported("A list of prompts", "prompt", "Send a request for each.")
    require_field(False, "prompt", "text or token ids", prompt)


def is_token(value: Any) -> bool:
    """Whether a value can be a token id."""
    return isinstance(value, int) and not isinstance(value, bool)


class CompletionWriter:
    """Writes an answer as chunks, or as one object.

    Args:
        request: What is answered.
        model: The model's name.
        include_usage: Send a chunk with the usage before the end.
    """

    def __init__(self, request: Request, model: str, include_usage: bool = False):
        self.request, self.include_usage = request, include_usage
        self.common = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self.logprobs: list[TokenLogprob] = []  # not written yet
        self.offset = 0  # of the next token's text

    def frames(self, event: Event) -> Sequence[str]:
        """As in Writer."""
        match event:
            case Step(choice, parts, logprobs):
                self.logprobs += logprobs
                texts = [part.text for part in parts if isinstance(part, Content)]
                return [self._chunk(choice, "".join(texts))] if texts else []
            case Finish(choice, reason):
                chunk = self._chunk(choice, "", reason)
                self.offset = 0
                return [chunk]
            case Done(usage, summary):
                frames = ["data: [DONE]\n\n"]
                if self.include_usage:
                    more = {"choices": [], "usage": usage_body(usage)}
                    frame = data_frame({**self.common, **more, "dflash": summary})
                    frames.insert(0, frame)
                return frames
            case Failed(error):
                return [data_frame(error_body(error))]
        return []

    def keep_alive(self, event: Event | None) -> str:
        """As in Writer."""
        return progress_comment(event)

    def _chunk(self, choice, text, reason=None):
        one = self._choice(choice, text, self.logprobs, reason)
        self.logprobs = []
        return data_frame({**self.common, "choices": [one]})

    def _choice(self, index, text, tokens, reason):
        asked = self.request.logprobs is not None
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(tokens) if asked else None,
            "finish_reason": reason,
        }

    def _logprobs(self, tokens):
        offsets = []
        for token in tokens:
            offsets.append(self.offset)
            self.offset += len(token.token)
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [dict(token.top) for token in tokens],
            "text_offset": offsets,
        }

    def body(self, answer: Collected) -> dict[str, Any]:
        """As in Writer."""
        choices = []
        for i, choice in enumerate(answer.choices):
            self.offset = 0
            text, reason = choice.content, choice.finish.reason
            choices.append(self._choice(i, text, choice.logprobs, reason))
        usage = usage_body(answer.usage)
        more = {"choices": choices, "usage": usage, "dflash": answer.summary}
        return {**self.common, **more}
