"""Any body becomes a request or an error of the client."""

import copy
import json
import random

import pytest

from dflash_mlx.server.dialects.anthropic import Messages
from dflash_mlx.server.dialects.chat import ChatCompletions
from dflash_mlx.server.dialects.completions import Completions
from dflash_mlx.server.dialects.responses import Responses
from dflash_mlx.server.errors import RequestError
from dflash_mlx.server.events import Failed, Started

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 3, "stream": True}
TEXT = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
DOCUMENT = {"type": "document", "source": {"type": "text", "data": "D"}}
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Hm"}],
        "content": [{"type": "reasoning_text", "text": "Hm"}],
        "encrypted_content": "dflash1:SG0=",
    },
    {"type": "message", "role": "assistant", "content": "A"},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [TEXT]},
    {"type": "custom_tool_call", "call_id": "d", "name": "p", "input": "x"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "y"},
    {"type": "additional_tools", "tools": [{"type": "function", "name": "h"}]},
]
FUNCTION = {"name": "f", "description": "F.", "parameters": SCHEMA, "strict": True}
BODIES = {
    ChatCompletions(): {
        **SAMPLING,
        "model": "m",
        "messages": [
            {"role": "developer", "content": "S"},
            {"role": "user", "content": [TEXT]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm",
                "tool_calls": [{"id": "c", "type": "function", "function": FUNCTION}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "x"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"function": FUNCTION}]},
        },
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        "stop": ["x"],
        "stream_options": {"include_usage": True},
        "logit_bias": {"5": 1},
        "logprobs": True,
        "top_logprobs": 2,
        "max_completion_tokens": 5,
        "chat_template_kwargs": {"x": 1},
        "dflash": {"drafts": True},
    },
    Completions(): {
        **SAMPLING,
        "prompt": [1, 2],
        "suffix": "x",
        "stop": "x",
        "max_tokens": 5,
        "logprobs": 2,
        "stream_options": {"include_usage": True},
        "structured_outputs": {"json": SCHEMA},
    },
    Messages(): {
        **SAMPLING,
        "model": "m",
        "system": [TEXT],
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [TEXT, DOCUMENT]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "", "signature": "dflash1:SG0="},
                    TEXT,
                    {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": [TEXT]},
                    {"type": "search_result", "title": "T", "content": [TEXT]},
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": SCHEMA}, {"type": "x", "name": "y"}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 9, "display": "omitted"},
        "output_config": {
            "effort": "low",
            "format": {"type": "json_schema", "schema": SCHEMA},
        },
        "stop_sequences": ["x"],
        "max_tokens": 5,
    },
    Responses(): {
        **SAMPLING,
        "model": "m",
        "input": ITEMS,
        "instructions": "S",
        "tools": [
            {"type": "function", **FUNCTION},
            {"type": "custom", "name": "p", "format": {"type": "grammar"}},
            {
                "type": "namespace",
                "name": "n",
                "tools": [{"type": "function", "name": "g"}],
            },
            {"type": "web_search"},
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "include": ["reasoning.encrypted_content"],
        "metadata": {"a": "b"},
        "max_output_tokens": 5,
        "top_logprobs": 2,
    },
}
COUNT = 700
VALUES = [
    *(None, True, False, 0, -1, 7, 1e308, 2**70, 0.5, "", "x", "auto", "\ud800"[:0]),
    *([], {}, [[]], [{}], [None], ["x", 3], {"x": 1}, {"type": "x"}, {"type": None}),
    *({"type": [1]}, {"name": 3}, {"role": "user"}, [{"type": "text"}], "é" * 300),
]


def places(value, path=()):
    """The paths to all values within a value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, each in items or enumerate(value if isinstance(value, list) else ()):
        yield from places(each, (*path, key))


def spoil(body, rng):
    """Replace or delete a few values of a body."""
    body = json.loads(json.dumps(body))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        *path, last = rng.choice(list(places(body)))
        target = body
        for key in path:
            target = target[key]
        if rng.random() < 0.15:
            del target[last]
        else:
            target[last] = copy.deepcopy(rng.choice(VALUES))
        if not body:
            break
    return body


@pytest.mark.parametrize("dialect", BODIES, ids=lambda each: type(each).__name__)
def test_any_body_is_a_request_or_an_error_of_the_client(dialect):
    dialect.request(BODIES[dialect])
    rng = random.Random(5)
    accepted = 0
    for _ in range(COUNT):
        body = spoil(BODIES[dialect], rng)
        assert dialect.streams(body) in (True, False)
        try:
            request = dialect.request(body)
        except RequestError as error:
            assert 400 <= error.status < 500, body
            assert error.message.endswith("."), error.message
            json.dumps(dialect.error(error))
            continue
        accepted += 1
        writer = dialect.writer(body, request, "m")
        writer.frames(Started(1, 0))
        writer.frames(Failed(RequestError("No.", 500)))
    assert (
        COUNT / 8 < accepted < COUNT * 7 / 8
    )  # the bodies are neither all good nor all bad
