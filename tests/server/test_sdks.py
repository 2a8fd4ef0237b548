"""Anthropic's messages and OpenAI's responses of a running server, with the SDKs."""

import anthropic
import openai
import pytest
from openai.types.responses import Response

from dflash_mlx import generate
from tests.equipment.live_server import data_of
from tests.equipment.played import read_frames

QUESTION = "What is 12 + 34?"
MESSAGES = [{"role": "user", "content": QUESTION}]
ASK = {"model": "claude-tiny", "max_tokens": 200, "messages": MESSAGES}
LONG = [{"role": "user", "content": "one two " * 6000}]


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def text(tiny):
    return generate(*tiny, MESSAGES)


@pytest.mark.slow
def test_messages_whole_and_streamed(claude, text):
    whole = claude.messages.create(**ASK)
    assert whole.content[0].text == text and whole.stop_reason == "end_turn"
    assert whole.model == "claude-tiny" and whole._request_id.startswith("req_")
    with claude.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == text
        assert stream.get_final_message().usage.output_tokens == (
            whole.usage.output_tokens
        )
    cut = claude.messages.create(**ASK | {"max_tokens": 5})
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 5
    stopped = claude.messages.create(**ASK, stop_sequences=["write", "answer"])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == "write"


def test_count_tokens_is_the_prompts_length(claude, server):
    counted = claude.messages.count_tokens(model="claude-tiny", messages=MESSAGES)
    usage = claude.messages.create(**ASK | {"max_tokens": 1}).usage
    cached = usage.cache_read_input_tokens
    assert counted.input_tokens == usage.input_tokens + cached > 0
    # A prompt that is too long for an answer is counted all the same.
    long = claude.messages.count_tokens(model="claude-tiny", messages=LONG)
    assert long.input_tokens > 6000
    # A model that is not loaded is loaded for it.
    body = {"model": "second", "messages": MESSAGES}
    other = server.post("/v1/messages/count_tokens", body).json()
    assert other == {"input_tokens": counted.input_tokens}


@pytest.mark.slow
def test_a_billing_line_that_changes_does_not_change_the_prompt(claude):
    line = "x-anthropic-billing-header: cc_version=2.1.173.{}; cch={};"

    def usage(suffix, number):
        system = [{"type": "text", "text": line.format(suffix, number)}]
        system.append({"type": "text", "text": "You add numbers. " * 20})
        return claude.messages.create(**ASK, system=system).usage

    first, second = usage("a1b", "aaaaa"), usage("zzz", "bbbbb")
    length = first.input_tokens + first.cache_read_input_tokens
    assert second.input_tokens + second.cache_read_input_tokens == length > 100
    assert second.cache_read_input_tokens >= length - 2


def test_system_messages_among_the_others(server):
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": "46"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "And 1 + 1?"},
    ]
    response = server.post("/v1/messages?beta=true", ASK | {"messages": messages})
    assert response.status_code == 200, response.text


def test_errors_of_messages(claude, server):
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(**ASK | {"model": "gpt-4"})
    assert caught.value.type == "not_found_error"
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError) as caught:
            claude.messages.create(**ASK | {"messages": LONG}, stream=stream)
        assert caught.value.api_message.startswith("prompt is too long: ")
    refused = server.post("/messages", {"messages": "Hi"})
    assert refused.status_code == 400 and refused.json()["type"] == "error"
    assert server.http.get("/v1/messages").json()["type"] == "error"


def test_what_is_ignored_is_in_a_header(server):
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    response = server.post("/v1/messages", ASK | {"tools": tools, "max_tokens": 1})
    assert "'web_search'" in response.headers["x-dflash-warning"]
    body = {"input": QUESTION, "store": True, "max_output_tokens": 1}
    response = server.post("/v1/responses", body)
    assert "store was ignored" in response.headers["x-dflash-warning"]


@pytest.mark.slow
def test_responses_whole_and_streamed(client, text):
    ask = {"model": "tiny", "input": QUESTION, "instructions": None}
    whole = client.responses.create(**ask)
    assert whole.output_text == text and whole.status == "completed"
    Response.model_validate(whole.to_dict())
    with client.responses.stream(**ask) as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == text == final.output_text and len(deltas) > 3
    assert final.usage.output_tokens == whole.usage.output_tokens
    cut = client.responses.create(**ask, max_output_tokens=5)
    assert cut.status == "incomplete" and cut.usage.output_tokens == 5


@pytest.mark.slow
def test_logprobs_of_responses(client):
    include = ["message.output_text.logprobs"]
    ask = {"model": "tiny", "input": QUESTION, "include": include, "top_logprobs": 2}
    part = client.responses.create(**ask).output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == part.text
    with client.responses.stream(**ask) as stream:
        deltas = [e for e in stream if e.type == "response.output_text.delta"]
    streamed = [token for delta in deltas for token in delta.logprobs]
    assert [t.token for t in streamed] == [t.token for t in part.logprobs]
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_errors_of_responses(client, server):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-4", input=QUESTION)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input=LONG)
    assert caught.value.code == "context_length_exceeded"
    refused = server.post("/v1/responses", {"input": "Hi", "conversation": "c"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "conversation"


@pytest.mark.parametrize("model", ["tiny", "second"])
def test_a_context_that_is_full_is_told_in_a_responses_stream(client, server, model):
    """Codex does not recognise it in an HTTP error."""
    stream = client.responses.create(model=model, input=LONG, stream=True)
    *_, last = list(stream)
    assert last.type == "response.failed"
    assert last.response.error.code == "context_length_exceeded"
    server.chat(QUESTION, model="tiny", max_tokens=1)


@pytest.mark.parametrize(
    "path, body",
    [("/v1/messages", ASK), ("/v1/responses", {"input": QUESTION})],
)
def test_streams_say_that_a_model_is_loaded(server, path, body):
    body = body | {"model": "second"}
    frames = server.frames(path, body)
    server.chat(QUESTION, model="tiny", max_tokens=1)
    if path == "/v1/messages":
        assert frames[0] == ": loading second"
        assert frames[1].startswith("event: message_start\n")
    else:
        names = [name for name, _ in read_frames([f + "\n\n" for f in frames])]
        assert names[:2] == ["response.created", "response.in_progress"]
        numbers = [body["sequence_number"] for body in data_of(frames)]
        assert numbers == list(range(len(numbers)))
