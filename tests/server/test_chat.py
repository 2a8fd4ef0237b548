"""Chat completions: the official SDK, the chunks, and what is refused."""

import json

import openai
import pytest

from dflash_mlx import Sampling, generate
from tests.equipment.live_server import data_of

QUESTION = "What is 12 + 34?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def text(tiny):
    return generate(*tiny, MESSAGES)


def test_an_answer_is_what_generate_says(client, text):
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.object == "chat.completion" and answer.model == "tiny"
    (choice,) = answer.choices
    assert choice.message.content == text and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.logprobs is None
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stream_has_the_same_text_in_the_documented_order(server, text):
    body = {"messages": MESSAGES, "stream_options": {"include_usage": True}}
    frames = server.frames("/v1/chat/completions", body)
    assert frames[-1] == "data: [DONE]"
    first, *middle, last, usage = list(data_of(frames))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0]["delta"] for chunk in middle]
    assert all(set(delta) == {"content"} for delta in deltas) and len(deltas) > 3
    assert "".join(delta["content"] for delta in deltas) == text
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] > 3
    every = [first, *middle, last, usage]
    assert {chunk["object"] for chunk in every} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in every}) == 1
    assert all("usage" not in chunk for chunk in every[:-1])


def test_the_sdk_reads_a_stream(client, text):
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_sampling_with_a_seed_is_generates(client, tiny):
    expected = generate(*tiny, MESSAGES, sampling=Sampling(temp=3.0, seed=3))
    options = {"model": "tiny", "messages": MESSAGES, "temperature": 3, "seed": 3}
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].message.content == expected
    several = client.chat.completions.create(**options, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert texts[0] == expected and len(set(texts)) > 1
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert several.usage.prompt_tokens == answer.usage.prompt_tokens


def test_limits_and_stop_strings(client, text):
    options = {"model": "tiny", "messages": MESSAGES}
    cut = client.chat.completions.create(**options, max_tokens=5)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 5
    newer = client.chat.completions.create(
        **options, max_tokens=2, max_completion_tokens=7
    )
    assert newer.usage.completion_tokens == 7
    unlimited = client.chat.completions.create(**options, max_tokens=-1)
    assert unlimited.choices[0].message.content == text
    stopped = client.chat.completions.create(**options, stop=["write", "answer"])
    assert stopped.choices[0].message.content == text.partition("write")[0]
    assert stopped.choices[0].finish_reason == "stop"


def test_logprobs_have_a_token_each(client):
    options = {"model": "tiny", "messages": MESSAGES, "logprobs": True}
    answer = client.chat.completions.create(**options, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == answer.choices[0].message.content
    assert (
        bytes(b for t in tokens for b in t.bytes).decode().startswith(tokens[0].token)
    )
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
        assert token.top_logprobs[0].token == token.token
    streamed = client.chat.completions.create(**options, top_logprobs=2, stream=True)
    found = [
        token
        for chunk in streamed
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [t.token for t in found] == [t.token for t in tokens]


def test_drafted_pieces_are_told_on_request(server, text):
    body = {"messages": MESSAGES, "dflash": {"drafts": True}}
    chunks = list(data_of(server.frames("/v1/chat/completions", body)))
    pieces = [p for c in chunks for p in c.get("dflash", {}).get("pieces", ())]
    assert "".join(piece for piece, _ in pieces) == text
    assert {drafted for _, drafted in pieces} == {True, False}
    plain = server.frames("/v1/chat/completions", {"messages": MESSAGES})
    assert all("dflash" not in chunk for chunk in data_of(plain))


def test_null_is_absent_and_unknown_fields_are_ignored(server, text):
    names = (
        "temperature top_p max_tokens stop tools tool_choice response_format n seed "
        "stream stream_options logit_bias logprobs presence_penalty user"
    )
    more = {name: None for name in names.split()} | {"never_heard_of": {"x": 1}}
    assert server.chat(QUESTION, **more)["choices"][0]["message"]["content"] == text


def test_roles_parts_and_histories_are_read(server):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "a",
            "content": [{"type": "text", "text": "3"}],
        },
        {"role": "user", "content": "1 + 2?"},
    ]
    response = server.post("/v1/chat/completions", {"messages": messages})
    assert response.status_code == 200, response.text


BAD = [
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({}, "messages"),
    ({"messages": [3]}, "messages.0"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content.0",
    ),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ({"top_logprobs": 2}, "logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"tools": [{"type": "function"}]}, "tools.0.function"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["audio"]}, "modalities"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), BAD)
def test_bad_fields_are_named_in_openais_shape(server, fields, param, stream):
    body = {"messages": MESSAGES, "stream": stream} | fields
    if fields == {}:
        body = {}
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"] == param
    assert error["message"].endswith(".") and "\n" not in error["message"]


def test_sdk_errors(client, server):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert caught.value.code == "model_not_found" and "tiny" in caught.value.message
    long = [{"role": "user", "content": "one two " * 6000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=long)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=long, stream=True)


def test_two_names_for_a_model(server):
    body = {"messages": MESSAGES, "model": "claude-haiku-4-5", "max_tokens": 2}
    answer = server.post("/chat/completions?beta=true", body).json()
    assert answer["model"] == "claude-haiku-4-5"


def test_a_second_model_is_loaded_on_request(server, text):
    answer = server.chat(QUESTION, model="second")
    assert answer["choices"][0]["message"]["content"] == text
    status = server.http.get("/status").json()
    assert status["model"] == "second" and server.loads == ["second"]
    frames = server.frames(
        "/v1/chat/completions", {"messages": MESSAGES, "model": "tiny"}
    )
    assert ": loading tiny" in frames and server.loads == ["second", "tiny"]


def test_the_next_turn_is_computed_from_the_cache(server):
    first = server.chat("What is 3 + 4?")
    said = first["choices"][0]["message"]["content"]
    messages = [
        {"role": "user", "content": "What is 3 + 4?"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "What is 5 + 6?"},
    ]
    body = {"messages": messages}
    second = server.post("/v1/chat/completions", body).json()["usage"]
    before = first["usage"]["total_tokens"]
    assert second["prompt_tokens_details"]["cached_tokens"] >= before - 2
    # A short request about something else does not replace the conversation.
    server.chat("Hello!", max_tokens=3)
    again = server.post("/v1/chat/completions", body).json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] >= before - 2


def test_completions_continue_text(client, server):
    answer = client.completions.create(model="tiny", prompt="1, 2, 3,", max_tokens=6)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text and answer.choices[0].finish_reason == "length"
    stream = client.completions.create(
        model="tiny", prompt="1, 2, 3,", max_tokens=6, stream=True, logprobs=1
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text
    tokens = [
        t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.tokens
    ]
    assert "".join(tokens) == answer.choices[0].text
    refused = server.post("/v1/completions", {"prompt": "a", "suffix": "b"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "suffix"
    for prompt in ([], ["a", "b"], 3, None, [1.5]):
        response = server.post("/v1/completions", {"prompt": prompt})
        assert response.status_code == 400, prompt
        assert response.json()["error"]["param"] == "prompt"


def test_json_bodies_only(server):
    post = server.http.post
    for raw in (b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b'{"a":"\\ud800"}'):
        headers = {"content-type": "application/json"}
        response = post("/v1/chat/completions", content=raw, headers=headers)
        assert response.status_code == 400, raw
        assert response.json()["error"]["type"] == "invalid_request_error"
    body = json.dumps({"messages": MESSAGES})
    plain = post("/v1/chat/completions", content=body)
    assert plain.json()["error"]["code"] == "invalid_content_type"
    deep = "[" * 100 + "]" * 100
    headers = {"content-type": "application/json"}
    response = post("/v1/chat/completions", content=f'{{"x":{deep}}}', headers=headers)
    assert response.status_code == 400 and "levels" in response.text
