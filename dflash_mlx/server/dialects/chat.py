"""OpenAI's chat completions: its request, its chunks, its answer.

Owns the fields of /v1/chat/completions and the order of its chunks. Does not know how
an answer is made.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from ...text.tool_calls import CallArguments, CallBroken, CallStart
from ..errors import RequestError, unsupported
from ..events import (
    Content,
    Done,
    Event,
    Failed,
    Finish,
    Part,
    Reasoning,
    Step,
    TokenLogprob,
)
from ..schema import (
    MAX_CHOICES,
    MAX_TOP_LOGPROBS,
    Constraint,
    Objects,
    Request,
    SamplingFields,
    Texts,
    parse_body,
    require_field,
)
from .collect import Choice, Collected
from .dialect import data_frame
from .messages import read_messages
from .openai import (
    OpenAIDialect,
    error_body,
    new_id,
    progress_comment,
    read_effort,
    read_format,
    read_max_tokens,
    read_stop,
    read_structured_outputs,
    read_tool_choice,
    read_tools,
    speed_body,
    usage_body,
)


class StreamOptions(SamplingFields):
    """stream_options."""

    include_usage: bool = False


class Extension(SamplingFields):
    """This server's own field "dflash"."""

    drafts: bool = False


class ChatBody(SamplingFields):
    """The fields of a chat request that are honoured."""

    model: str | None = None
    messages: list[Any] = Field(default_factory=list)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: Any = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: Objects = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    functions: Any = None
    response_format: Any = None
    structured_outputs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    reasoning_effort: str | None = None
    audio: Any = None
    modalities: Texts = Field(default_factory=list)
    continue_final_message: bool = False
    dflash: Extension = Extension()


class ChatCompletions(OpenAIDialect):
    """The dialect of /v1/chat/completions."""

    def request(self, body: Mapping[str, Any]) -> Request:
        """As in Dialect."""
        fields = parse_body(ChatBody, body)
        refuse_unsupported(fields)
        require_field(
            1 <= fields.n <= MAX_CHOICES, "n", f"1 to {MAX_CHOICES}", fields.n
        )
        tools = read_tools(fields.tools)
        messages = read_messages(fields.messages)
        thinking, effort = read_effort(fields.reasoning_effort, "reasoning_effort")
        return Request(
            model=fields.model,
            messages=messages,
            continue_last=fields.continue_final_message,
            tools=tools,
            tool_choice=read_tool_choice(
                fields.tool_choice, tools, fields.parallel_tool_calls
            ),
            constraint=read_constraint(fields),
            sampling=fields.sampling(),
            max_tokens=read_max_tokens(
                ("max_completion_tokens", fields.max_completion_tokens),
                ("max_tokens", fields.max_tokens),
            ),
            stop=read_stop(fields.stop),
            choices=fields.n,
            logprobs=read_logprobs(fields),
            thinking=thinking,
            effort=effort,
            template_arguments=fields.chat_template_kwargs,
            show_drafts=fields.dflash.drafts,
        )

    def writer(
        self, body: Mapping[str, Any], request: Request, model: str
    ) -> ChatWriter:
        """As in Dialect."""
        options = body.get("stream_options") or {}
        return ChatWriter(request, model, bool(options.get("include_usage")))


def refuse_unsupported(fields: ChatBody) -> None:
    """Raise RequestError for fields that would be answered wrongly."""
    if fields.functions:
        raise unsupported("functions", "functions", "Use tools.")
    if fields.audio or "audio" in fields.modalities:
        raise unsupported("Audio", "modalities")


def read_constraint(fields: ChatBody) -> Constraint | None:
    """The constraint of response_format or structured_outputs.

    Raises:
        RequestError: Both are given, or one cannot be used.
    """
    constraint = read_format(fields.response_format)
    if fields.structured_outputs is None:
        return constraint
    if constraint is not None:
        raise RequestError(
            "response_format and structured_outputs exclude each other.",
            param="structured_outputs",
        )
    return read_structured_outputs(fields.structured_outputs)


def read_logprobs(fields: ChatBody) -> int | None:
    """The number of alternatives per token, or None for no logprobs.

    Raises:
        RequestError: It is out of range, or logprobs is off.
    """
    if fields.top_logprobs is not None:
        fits = 0 <= fields.top_logprobs <= MAX_TOP_LOGPROBS
        wanted = f"0 to {MAX_TOP_LOGPROBS}"
        require_field(fits, "top_logprobs", wanted, fields.top_logprobs)
        require_field(
            fields.logprobs or not fields.top_logprobs,
            "logprobs",
            "true with top_logprobs",
            fields.logprobs,
        )
    return (fields.top_logprobs or 0) if fields.logprobs else None


class ChatWriter:
    """Writes an answer as chunks, or as one object.

    Args:
        request: What is answered.
        model: The model's name.
        include_usage: Send a chunk with the usage before the end.
    """

    def __init__(self, request: Request, model: str, include_usage: bool = False):
        self.request, self.include_usage = request, include_usage
        self.common = {
            "id": new_id("chatcmpl-"),
            "created": int(time.time()),
            "model": model,
        }
        self.begun: set[int] = set()  # choices that have their first chunk
        self.logprobs: list[TokenLogprob] = []  # not written yet

    def frames(self, event: Event) -> Sequence[str]:
        """As in Writer."""
        match event:
            case Step(choice=choice):
                return [*self._begin(choice), *self._step(event)]
            case Finish(choice, reason, _, warnings):
                more = {"warnings": list(warnings)} if warnings else {}
                chunk = self._chunk(choice, {}, reason, more)
                return [*self._begin(choice), chunk]
            case Done(usage, summary):
                return [*self._usage(usage, summary), "data: [DONE]\n\n"]
            case Failed(error):
                return [data_frame(error_body(error))]
        return []

    def keep_alive(self, event: Event | None) -> str:
        """As in Writer."""
        return progress_comment(event)

    def _begin(self, choice):
        if choice in self.begun:
            return []
        self.begun.add(choice)
        return [self._chunk(choice, {"role": "assistant", "content": ""})]

    def _step(self, step):
        self.logprobs += step.logprobs
        for part in step.parts:
            more = {}
            if self.request.show_drafts:
                pieces = part.pieces if isinstance(part, Content) else ()
                more["dflash"] = {"pieces": pieces, **speed_body(step.speed)}
            if (delta := part_delta(part)) is not None:
                yield self._chunk(step.choice, delta, None, more)

    def _chunk(self, choice, delta, reason=None, more=None):
        logprobs = None
        if self.request.logprobs is not None and (reason or "content" in delta):
            logprobs = logprobs_body(self.logprobs)
            self.logprobs = []
        one = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": reason,
        }
        head = {**self.common, "object": "chat.completion.chunk"}
        return data_frame({**head, "choices": [one], **(more or {})})

    def _usage(self, usage, summary):
        if not self.include_usage:
            return []
        head = {**self.common, "object": "chat.completion.chunk"}
        body = {**head, "choices": [], "usage": usage_body(usage)}
        return [data_frame({**body, "dflash": summary})]

    def body(self, answer: Collected) -> dict[str, Any]:
        """As in Writer."""
        return {
            **self.common,
            "object": "chat.completion",
            "choices": [self._choice(i, c) for i, c in enumerate(answer.choices)],
            "usage": usage_body(answer.usage),
            "dflash": answer.summary,
        }

    def _choice(self, index, choice):
        asked = self.request.logprobs is not None
        body = {
            "index": index,
            "message": message_body(choice),
            "logprobs": logprobs_body(choice.logprobs) if asked else None,
            "finish_reason": choice.finish.reason,
        }
        warnings = choice.finish.warnings
        return {**body, "warnings": list(warnings)} if warnings else body


def part_delta(part: Part) -> dict[str, Any] | None:
    """The delta of a part; None if it adds nothing."""
    match part:
        case Reasoning(text):
            return {"reasoning_content": text, "reasoning": text}
        case Content(text):
            return {"content": text}
        case CallStart(index, id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments(index, fragment):
            call = {"index": index, "function": {"arguments": fragment}}
            return {"tool_calls": [call]}
        case CallBroken(raw=raw, truncated=False):
            return {"content": raw}
    return None


def message_body(choice: Choice) -> dict[str, Any]:
    """The message of a choice."""
    body: dict[str, Any] = {"role": "assistant", "content": choice.content}
    if choice.reasoning:
        body |= {"reasoning_content": choice.reasoning, "reasoning": choice.reasoning}
    if calls := choice.complete_calls:
        body["content"] = choice.content or None
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return body


def logprobs_body(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The logprobs of tokens."""
    content = []
    for token in tokens:
        top = [logprob_entry(text, value) for text, value in token.top]
        entry = logprob_entry(token.token, token.logprob)
        content.append({**entry, "top_logprobs": top})
    return {"content": content, "refusal": None}


def logprob_entry(text: str, value: float) -> dict[str, Any]:
    """A token's text, bytes and logprob."""
    return {"token": text, "logprob": value, "bytes": list(text.encode())}
