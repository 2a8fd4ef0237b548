"""Responses and messages against the real server, with the official SDKs."""

import json

import anthropic
import openai
import pydantic
import pytest

from dflash_mlx import generate
from tests.equipment.forced_answer import say
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tool_tokenizer import tool_tokenizer

QUESTION = "What is 12 + 34?"
MESSAGES = [{"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def text(tiny):
    return generate(*tiny, MESSAGES)


@pytest.fixture(scope="module")
def claude(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def live(tiny):
    """A server whose chat template has tools and reasoning."""
    pair, tokenizer = tiny
    with LiveServer(pair, tool_tokenizer(tokenizer.eos_token_ids)) as server:
        yield server


def test_messages(claude, text):
    answer = claude.messages.create(model="tiny", max_tokens=99, messages=MESSAGES)
    assert answer.content[0].text == text and answer.stop_reason == "end_turn"
    with claude.messages.stream(
        model="tiny", max_tokens=99, messages=MESSAGES
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert final.usage.output_tokens == answer.usage.output_tokens
    counted = claude.messages.count_tokens(model="tiny", messages=MESSAGES)
    whole = final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == whole


def test_messages_end_as_asked(claude, text):
    options = {"model": "tiny", "messages": MESSAGES}
    cut = claude.messages.create(**options, max_tokens=3)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    stops = ["never", "write"]
    stopped = claude.messages.create(**options, max_tokens=99, stop_sequences=stops)
    assert stopped.stop_reason == "stop_sequence"
    assert stopped.stop_sequence == "write"
    assert stopped.content[0].text == text.partition("write")[0]


def test_errors_of_messages(claude, server):
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="gpt-4", max_tokens=3, messages=MESSAGES)
    long = [{"role": "user", "content": "one two " * 6000}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model="tiny", max_tokens=3, messages=long)
    assert caught.value.body["error"]["message"].startswith("prompt is too long: ")
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="tiny", max_tokens=3, messages=[])
    missing = server.post("/v1/messages/never", {})
    assert missing.json()["type"] == "error"
    counted = server.post("/v1/messages/count_tokens", {"messages": []})
    assert counted.status_code == 400 and counted.json()["type"] == "error"


def test_tokens_are_counted_for_a_model_that_is_not_loaded(server):
    body = {"messages": MESSAGES}
    here = server.post("/v1/messages/count_tokens", body).json()
    other = server.post("/messages/count_tokens", body | {"model": "second"}).json()
    assert here == other and here["input_tokens"] > 5


def test_a_system_message_among_messages(live):
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": "46."},
        {"role": "system", "content": "Be brief."},
        *MESSAGES,
    ]
    body = {"model": "tiny", "max_tokens": 2, "messages": messages}
    response = live.post("/v1/messages?beta=true", body)
    assert response.status_code == 200, response.text


def test_a_billing_line_that_changes_does_not_break_the_cache(live):
    def ask(cch, messages):
        line = f"x-anthropic-billing-header: cc_version=2.1.{cch}; cch={cch};"
        system = [
            {"type": "text", "text": line},
            {"type": "text", "text": "You are a helper. " * 20},
        ]
        body = {"model": "tiny", "max_tokens": 6, "system": system}
        return live.post("/v1/messages", body | {"messages": messages}).json()

    first = ask("aaaaa", MESSAGES)
    said = {"role": "assistant", "content": first["content"]}
    second = ask("bbbbb", [*MESSAGES, said, {"role": "user", "content": "And 1 + 1?"}])
    before = first["usage"]["input_tokens"] + first["usage"]["cache_read_input_tokens"]
    # The template drops a few tokens of the turn before.
    assert second["usage"]["cache_read_input_tokens"] >= before - 20


def test_a_tool_call_in_messages(live, monkeypatch):
    tools = [{"name": "weather", "input_schema": SCHEMA}]
    client = anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)
    say(monkeypatch, f"<think>\nHm.\n</think>\n\nI look.{CALL}")
    with client.messages.stream(
        model="tiny",
        max_tokens=300,
        messages=MESSAGES,
        tools=tools,
        thinking={"type": "disabled"},
    ) as stream:
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
    assert final.stop_reason == "tool_use"
    assert final.content[2].input == {"city": "Rome"}
    result = {"type": "tool_result", "tool_use_id": final.content[2].id}
    back = [
        *MESSAGES,
        {"role": "assistant", "content": [b.to_dict() for b in final.content]},
        {"role": "user", "content": [result | {"content": "Sunny."}]},
    ]
    say(monkeypatch, "Sunny in Rome.")
    answer = client.messages.create(
        model="tiny", max_tokens=300, messages=back, tools=tools
    )
    assert answer.content[-1].text == "Sunny in Rome."
    assert answer.usage.cache_read_input_tokens > 10


def test_responses(client, text):
    answer = client.responses.create(model="tiny", input=QUESTION)
    assert answer.output_text == text and answer.status == "completed"
    with client.responses.stream(model="tiny", input=QUESTION) as stream:
        final = stream.get_final_response()
    assert final.output_text == text
    assert final.usage.output_tokens == answer.usage.output_tokens
    cut = client.responses.create(model="tiny", input=QUESTION, max_output_tokens=3)
    assert cut.status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_responses_parse_a_schema(client):
    class Sum(pydantic.BaseModel):
        sum: int

    answer = client.responses.parse(model="tiny", input=QUESTION, text_format=Sum)
    assert isinstance(answer.output_parsed, Sum)


def test_foreign_tools_do_not_fail_a_response(live, monkeypatch):
    tools = [
        {"type": "function", "name": "weather", "parameters": SCHEMA},
        {"type": "custom", "name": "apply_patch", "description": "Patches."},
        {"type": "web_search"},
        {"type": "namespace", "name": "mcp", "tools": []},
    ]
    say(monkeypatch, CALL)
    body = {"model": "tiny", "input": QUESTION, "tools": tools}
    answer = live.post("/v1/responses", body)
    assert answer.status_code == 200 and "x-dflash-warning" in answer.headers
    (item,) = answer.json()["output"]
    assert item["type"] == "function_call" and item["name"] == "weather"
    patch = {"name": "apply_patch", "arguments": {"input": "*** Begin\n+x\n"}}
    say(monkeypatch, f"<tool_call>\n{json.dumps(patch)}\n</tool_call>")
    events = list(data_of(live.frames("/v1/responses", body)))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done[0]["type"] == "custom_tool_call"
    assert done[0]["input"] == "*** Begin\n+x\n"
    assert events[-1]["type"] == "response.completed"


def test_errors_of_responses(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="gpt-4", input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="one two " * 6000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "second"])
def test_a_context_that_is_full_is_told_in_a_responses_stream(client, server, model):
    """Codex does not recognise it in an HTTP error."""
    long = "one two " * 6000
    *_, last = client.responses.create(model=model, input=long, stream=True)
    assert last.type == "response.failed"
    assert last.response.error.code == "context_length_exceeded"
    server.chat(QUESTION, model="tiny", max_tokens=1)


@pytest.mark.slow
def test_a_prompt_that_is_too_long_for_an_answer_is_counted(server):
    body = {"messages": [{"role": "user", "content": "one two " * 6000}]}
    for model in ("tiny", "second"):
        response = server.post("/v1/messages/count_tokens", body | {"model": model})
        assert response.json()["input_tokens"] > 6000
    server.chat(QUESTION, model="tiny", max_tokens=1)


def test_both_sdks_find_the_requests_identifier(claude, client):
    asked = {"model": "tiny", "max_tokens": 1, "messages": MESSAGES}
    assert claude.messages.create(**asked)._request_id.startswith("req_")
    answer = client.responses.create(model="tiny", input="x", max_output_tokens=1)
    assert answer._request_id.startswith("req_")


def test_what_is_ignored_is_in_a_header(server):
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    body = {"messages": MESSAGES, "tools": tools, "max_tokens": 1}
    response = server.post("/v1/messages", body)
    assert "'web_search'" in response.headers["x-dflash-warning"]
    body = {"input": QUESTION, "store": True, "max_output_tokens": 1}
    response = server.post("/v1/responses", body)
    assert "store was ignored" in response.headers["x-dflash-warning"]


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


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/messages", {"max_tokens": 9, "messages": MESSAGES}),
        ("/v1/responses", {"input": QUESTION}),
    ],
)
def test_streams_say_that_a_model_is_loaded(server, path, body):
    frames = server.frames(path, body | {"model": "second"})
    server.chat(QUESTION, model="tiny", max_tokens=1)
    if path == "/v1/messages":
        assert frames[0] == ": loading second"
        assert frames[1].startswith("event: message_start\n")
    else:
        kinds = [event["type"] for event in data_of(frames)]
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds.count("response.created") == 1


def test_both_sdks_list_the_models(claude, client):
    (first, second) = claude.models.list(limit=1000)
    assert (first.id, second.id) == ("tiny", "second")
    assert first.type == "model" and first.display_name == "tiny"
    assert first.created_at.year > 2000 and first.max_input_tokens == 8192
    assert [each.id for each in client.models.list()] == ["tiny", "second"]
    assert client.models.retrieve("second").created == first.created_at.timestamp()


@pytest.mark.slow
def test_a_tool_that_the_sdks_runner_adds_can_be_called(live, monkeypatch):
    definition = {"name": "weather", "description": "W.", "input_schema": SCHEMA}
    tool = {"type": "tool_definition", "definition": definition}
    added = {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}
    client = anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)
    say(monkeypatch, CALL)
    answer = client.beta.messages.create(
        model="tiny",
        max_tokens=99,
        messages=[*MESSAGES, added],
        betas=["mid-conversation-tool-changes-2026-07-01", "inline-tools-2026-09-15"],
    )
    assert answer.stop_reason == "tool_use"
    assert answer.content[-1].input == {"city": "Rome"}


def test_tokens_of_tools_and_of_a_system_prompt_are_counted(claude, live):
    client = anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)

    def count(**more):
        counted = client.messages.count_tokens(model="tiny", messages=MESSAGES, **more)
        return counted.input_tokens

    tools = [{"name": "weather", "input_schema": SCHEMA}]
    assert count() + 20 < count(tools=tools)
    assert count() + 4 < count(system="You are a helper.")
    deferred = [tools[0], {**tools[0], "name": "later", "defer_loading": True}]
    assert count(tools=deferred) == count(tools=tools)
