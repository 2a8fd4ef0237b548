"""Tool calls and reasoning through the server. A grammar makes the toy say a text."""

import json
from dataclasses import replace

import jsonschema
import openai
import pytest

from dflash_mlx.server import prompt
from dflash_mlx.server.dialects.chat import ChatCompletions
from dflash_mlx.text.grammar import Grammar
from dflash_mlx.text.reasoning import behind_reasoning, find_markers
from dflash_mlx.text.tool_calls.formats import GLM
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tool_tokenizer import tool_tokenizer

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Weather in Rome?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Today's weather.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n'
CALL += "</tool_call>"
CLOCK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def live(tiny):
    pair, tokenizer = tiny
    with LiveServer(pair, tool_tokenizer(tokenizer.eos_token_ids)) as server:
        yield server


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def saying(text: str, **more) -> dict:
    """A request whose answer is `text`."""
    body = {"messages": MESSAGES, "tools": TOOLS, "reasoning_effort": "none"}
    return body | {"structured_outputs": {"choice": [text]}} | more


def joined(chunks) -> dict:
    """The message that the deltas of a stream make."""
    message = {"content": "", "reasoning": "", "calls": {}, "finish": None}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        message["content"] += delta.get("content") or ""
        message["reasoning"] += delta.get("reasoning_content") or ""
        for call in delta.get("tool_calls", ()):
            known = message["calls"].setdefault(
                call["index"], {"id": call.get("id"), "name": "", "arguments": ""}
            )
            known["name"] += call["function"].get("name", "")
            known["arguments"] += call["function"].get("arguments", "")
        message["finish"] = choice["finish_reason"] or message["finish"]
    return message


def check_both(live, body) -> dict:
    """The message of a request, which is the same streamed and not streamed."""
    whole = live.post(PATH, body).json()["choices"][0]
    found = joined(data_of(live.frames(PATH, body)))
    message = whole["message"]
    assert found["content"] == (message["content"] or "")
    assert found["reasoning"] == message.get("reasoning_content", "")
    calls = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    told = [(c["name"], c["arguments"]) for c in found["calls"].values()]
    assert calls == told[: len(calls)]
    assert found["finish"] == whole["finish_reason"]
    return whole


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_calls_are_the_same_streamed_and_whole(live, temperature):
    text = f"Let me see.\n{CALL}\n{CLOCK}"
    body = saying(text, temperature=temperature, seed=4)
    whole = check_both(live, body)
    message = whole["message"]
    assert whole["finish_reason"] == "tool_calls"
    assert message["content"].strip() == "Let me see."
    names = [call["function"]["name"] for call in message["tool_calls"]]
    assert names == ["weather", "clock"]
    arguments = [json.loads(c["function"]["arguments"]) for c in message["tool_calls"]]
    assert arguments == [{"city": "Rome", "days": 2}, {}]
    ids = {call["id"] for call in message["tool_calls"]}
    assert len(ids) == 2 and all(id.startswith("call_") for id in ids)


def test_deltas_of_calls_have_the_documented_shape(live):
    chunks = list(data_of(live.frames(PATH, saying(CALL + CLOCK))))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert all(len(each) == 1 and isinstance(each[0]["index"], int) for each in calls)
    begun = [each[0] for each in calls if "id" in each[0]]
    assert [each["index"] for each in begun] == [0, 1]
    for each in begun:
        assert each["type"] == "function" and each["function"]["arguments"] == ""
    more = [each[0] for each in calls if "id" not in each[0]]
    assert len([each for each in more if each["index"] == 0]) > 1  # streamed
    assert all(set(each) == {"index", "function"} for each in more)
    assert (
        deltas[-1] == {} and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    )


def test_the_sdk_reads_streamed_calls(client):
    body = saying(CALL)
    outputs = {"structured_outputs": body.pop("structured_outputs")}
    with client.chat.completions.stream(
        model="tiny", extra_body=outputs, **body
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Rome", "days": 2}


def test_one_call_only_on_request(live):
    whole = check_both(live, saying(CALL + CLOCK, parallel_tool_calls=False))
    names = [c["function"]["name"] for c in whole["message"]["tool_calls"]]
    assert names == ["weather"] and whole["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("tokens", range(11, 40, 6))
def test_a_call_that_is_cut_off_is_left_out(live, tokens):
    body = saying(CALL, max_tokens=tokens)
    whole = live.post(PATH, body).json()["choices"][0]
    assert whole["finish_reason"] == "length"
    assert "tool_calls" not in whole["message"] and not whole["message"]["content"]
    assert "cut off" in whole["warnings"][0]
    *_, last = data_of(live.frames(PATH, body))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["warnings"] == whole["warnings"]


def test_what_is_no_call_reaches_the_client_as_text(live):
    broken = '<tool_call>\n{"name": "weather", "arguments": [1}\n</tool_call>'
    whole = live.post(PATH, saying(f"So: {broken}")).json()["choices"][0]
    assert whole["message"]["content"] == f"So: {broken}"
    assert whole["finish_reason"] == "stop" and whole["warnings"]
    message = joined(data_of(live.frames(PATH, saying(f"So: {broken}"))))
    assert message["content"] == f"So: {broken}"


def test_a_value_of_the_wrong_type_is_not_dropped(live):
    text = CALL.replace('"days": 2', '"days": "2026-01-15"')
    (call,) = check_both(live, saying(text))["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["days"] == "2026-01-15"


def test_nothing_of_an_earlier_requests_call_reaches_the_next(live):
    odd = [{"type": "function", "function": {"name": "pytest"}}]
    text = (
        '<tool_call>\n{"name": "pytest", "arguments": {"odd": "zebra"}}\n</tool_call>'
    )
    live.post(PATH, saying(text, tools=odd))
    answer = live.post(PATH, {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 60})
    assert "zebra" not in answer.text and "pytest" not in answer.text


def test_tools_are_not_offered_when_none_may_be_called(live):
    with_tools = live.post(PATH, saying("x")).json()["usage"]["prompt_tokens"]
    without = live.post(PATH, saying("x", tool_choice="none")).json()
    assert without["usage"]["prompt_tokens"] < with_tools
    named = {"type": "allowed_tools", "allowed_tools": {"tools": [{"name": "clock"}]}}
    fewer = live.post(PATH, saying("x", tool_choice=named)).json()
    assert without["usage"]["prompt_tokens"] < fewer["usage"]["prompt_tokens"]
    assert fewer["usage"]["prompt_tokens"] < with_tools


def test_a_model_without_tools_ignores_them_and_says_so(server):
    response = server.post(PATH, {"messages": MESSAGES, "tools": TOOLS})
    assert response.status_code == 200
    assert "tools were ignored" in response.headers["x-dflash-warning"]
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}
    assert server.post(PATH, body).status_code == 400


def test_reasoning_is_split_and_counted(live):
    whole = check_both(live, saying("<think>\nHm, 3.\n</think>\n\nThree."))
    assert whole["message"]["content"] == "Three."
    assert whole["message"]["reasoning_content"].strip() == "Hm, 3."
    assert whole["message"]["reasoning"] == whole["message"]["reasoning_content"]
    response = live.post(PATH, saying("<think>\nHm, 3.\n</think>\n\nThree.")).json()
    counted = response["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 3 <= counted < response["usage"]["completion_tokens"]


def test_a_call_behind_reasoning(live):
    whole = check_both(live, saying(f"<think>\nHm.\n</think>\n\n{CALL}"))
    assert whole["message"]["reasoning_content"].strip() == "Hm."
    assert len(whole["message"]["tool_calls"]) == 1


def test_the_reasoning_of_a_tool_loop_is_restored(live):
    """A client that leaves the reasoning out gets the same prompt."""
    body = saying(f"<think>\nHm, Rome.\n</think>\n\n{CALL}")
    first = live.post(PATH, body).json()
    message = first["choices"][0]["message"]
    call = message["tool_calls"][0]
    left_out = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Sunny."}
    more = {"messages": [*MESSAGES, left_out, result], "structured_outputs": None}
    restored = live.post(PATH, body | more | {"max_tokens": 1}).json()["usage"]
    sent = left_out | {"reasoning_content": message["reasoning_content"]}
    more["messages"] = [*MESSAGES, sent, result]
    given = live.post(PATH, body | more | {"max_tokens": 1}).json()["usage"]
    assert given["prompt_tokens"] == restored["prompt_tokens"]


def test_system_messages_anywhere(live):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "three"},
    ]
    response = live.post(PATH, {"messages": messages, "max_tokens": 2})
    assert response.status_code == 200, response.text


def test_thinking_is_switched_by_the_request(live):
    def prompt(**more):
        body = {"messages": MESSAGES, "max_tokens": 1} | more
        response = live.post(PATH, body)
        return response.json()["usage"]["prompt_tokens"], response.headers

    on, _ = prompt(chat_template_kwargs={"enable_thinking": True})
    off, _ = prompt(chat_template_kwargs={"enable_thinking": False})
    none, headers = prompt(reasoning_effort="none")
    assert off == none > on and "x-dflash-warning" not in headers
    _, headers = prompt(reasoning_effort="high")
    assert "effort was ignored" in headers["x-dflash-warning"]
    _, headers = prompt(chat_template_kwargs={"nonsense": 1, "tools": []})
    assert "chat_template_kwargs.nonsense was ignored" in headers["x-dflash-warning"]


CITY = {"type": "string", "enum": ["Rome", "Oslo"]}
WEATHER = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
WEATHER |= {"additionalProperties": False}
NARROW = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock"}},
]


def required(**more) -> dict:
    """A request with tools and without thinking."""
    body = {"messages": MESSAGES, "tools": NARROW, "reasoning_effort": "none"}
    return body | {"max_tokens": 600} | more


def check_calls(message):
    """Check that all calls of a message fit the tools."""
    schemas = {"weather": WEATHER, "clock": {"type": "object"}}
    for call in message["tool_calls"]:
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, schemas[call["function"]["name"]])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_call_that_must_be_made_is_made_and_fits(live, temperature):
    body = required(tool_choice="required", parallel_tool_calls=False)
    whole = check_both(live, body | {"temperature": temperature, "seed": 1})
    assert whole["finish_reason"] == "tool_calls"
    assert len(whole["message"]["tool_calls"]) == 1
    check_calls(whole["message"])
    named = {"type": "function", "function": {"name": "clock"}}
    whole = check_both(live, body | {"tool_choice": named, "temperature": temperature})
    (call,) = whole["message"]["tool_calls"]
    assert call["function"]["name"] == "clock"


def test_a_strict_tools_call_is_constrained_from_its_opening_on(live):
    def grammar(tools, **more):
        request = ChatCompletions().request(required(tools=tools, **more))
        return live.scheduler.prepare(request, "tiny").grammar

    strict = [dict(t, function=dict(t["function"], strict=True)) for t in NARROW]
    found = grammar(strict)
    assert found.markers.markers == [b"<tool_call>"]
    matcher = found.start()
    tokenizer = live.models.loaded.tokenizer

    def follow(text):
        for token in tokenizer.encode(text, add_special_tokens=False):
            if not matcher.walk([token], 512).legal:
                return False
            matcher.accept([token])
        return True

    assert follow("Let me see. <tool_call") and not matcher.active
    assert follow(">") and matcher.active
    assert follow('\n{"name": "weather", "arguments": {"city": "R')
    assert not follow("x") and follow('ome"}}\n</tool_call>')
    assert grammar(NARROW) is None and grammar(strict, tool_choice="none") is None


def test_a_grammar_begins_behind_the_reasoning_not_at_a_call_in_it(live):
    tokenizer = live.models.loaded.tokenizer
    assert len(find_markers(tokenizer).edges["reasoning"]) > 1
    grammar = Grammar.of_json_object(tokenizer)
    ids = tokenizer.encode("<|im_start|>assistant\n<think>\n", add_special_tokens=False)
    found = behind_reasoning(grammar, tokenizer, ids)
    assert found.markers.markers == [b"</think>"]


def test_a_schema_beside_tools_leaves_both_ways(live):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    format = {"type": "json_schema", "schema": schema}
    whole = check_both(live, required(response_format=format))
    message = whole["message"]
    if "tool_calls" in message:
        check_calls(message)
    else:
        assert set(json.loads(message["content"])) == {"a"}


def test_a_format_whose_calls_cannot_be_enforced_is_refused(live, monkeypatch):
    glm = replace(GLM)
    monkeypatch.setattr(prompt, "find_format", lambda tokenizer: glm)
    response = live.post(PATH, required(tool_choice="required"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tool_choice"


def test_a_schema_behind_reasoning(live):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    schema |= {"required": ["a"], "additionalProperties": False}
    body = {
        "messages": MESSAGES,
        "chat_template_kwargs": {"enable_thinking": True},
        "response_format": {"type": "json_schema", "schema": schema},
        "logit_bias": {},
        "max_tokens": 300,
    }
    whole = live.post(PATH, body).json()["choices"][0]
    message = whole["message"]
    # The toy never ends its reasoning by itself: all text is reasoning, none is free.
    if whole["finish_reason"] == "length" or not message["content"]:
        assert message["reasoning_content"] and not message["content"]
    else:
        assert set(json.loads(message["content"])) == {"a"}
