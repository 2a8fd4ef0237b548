"""Requests that real clients sent, shortened, are answered as those clients expect."""

import json
from pathlib import Path

import pytest
from mlx_lm.models import llama

from dflash_mlx.pair import Pair
from tests.equipment.forced_answer import say
from tests.equipment.live_server import LiveServer, data_of
from tests.equipment.tiny import SHAPE, randomize_weights
from tests.equipment.tool_tokenizer import tool_tokenizer

FOLDER = Path(__file__).parent / "captured"
ALL = sorted(path.stem for path in FOLDER.glob("*.json"))
WITH_TOOLS = ["claude_code_tools", "claude_code_subagent", "codex", "llm", "opencode"]
CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def live(tiny):
    """A server with a random model of one layer: the requests are long."""
    pair, tokenizer = tiny
    tokenizer = tool_tokenizer(tokenizer.eos_token_ids)
    shape = SHAPE | {"num_hidden_layers": 1, "vocab_size": pair.model.args.vocab_size}
    args = llama.ModelArgs.from_dict(shape | {"model_type": "llama"})
    random = Pair.of(randomize_weights(llama.Model(args), "float32"))
    with LiveServer(random, tokenizer, aliases={"*": "tiny"}) as server:
        yield server


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def send(live, captured):
    """The response to a captured request, and the JSON of its stream's events."""
    headers = captured["headers"]
    response = live.post(captured["path"], captured["body"], **headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return response, list(data_of(response.text.split("\n\n")))


def text_of(path, events):
    """The text of a streamed answer."""
    if path.startswith("/v1/messages"):
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta"]
        return "".join(each.get("text", "") for each in deltas)
    if path == "/v1/responses":
        kind = "response.output_text.delta"
        return "".join(e["delta"] for e in events if e["type"] == kind)
    deltas = [c["delta"] for e in events for c in e["choices"]]
    return "".join(each.get("content") or "" for each in deltas)


@pytest.mark.parametrize("name", ALL)
def test_a_captured_request_is_answered(live, name, monkeypatch):
    captured = read(name)
    text = "It is done."
    if name != "llm_schema":
        say(monkeypatch, text)
    else:  # what the random model writes in that schema may have no end
        captured["body"]["max_tokens"] = 8
    response, events = send(live, captured)
    path, last = captured["path"], events[-1]
    said = text_of(path, events)
    assert said.startswith("{") if name == "llm_schema" else said == text
    if path.startswith("/v1/messages"):
        assert last["type"] == "message_stop"
        ends = [e for e in events if e["type"] == "message_delta"]
        assert ends[0]["delta"]["stop_reason"] == "end_turn"
        assert ends[0]["usage"]["output_tokens"] > 0
    elif path == "/v1/responses":
        assert last["type"] == "response.completed"
        usage = last["response"]["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert "'web_search'" in response.headers["x-dflash-warning"]
    else:
        assert response.text.endswith("data: [DONE]\n\n")
        assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
        reasons = [c["finish_reason"] for e in events for c in e["choices"]]
        wanted = "length" if name == "llm_schema" else "stop"
        assert reasons[-1] == wanted and not any(reasons[:-1])


def first_tool(tools):
    """The name of the first function, and the name of its first parameter."""
    function = tools[0].get("function", tools[0])
    schema = function.get("input_schema") or function.get("parameters")
    return function["name"], next(iter(schema["properties"]), None)


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_tool_of_a_captured_request_is_called(live, name, monkeypatch):
    captured = read(name)
    tool, parameter = first_tool(captured["body"]["tools"])
    arguments = {parameter: "ls"} if parameter else {}
    say(monkeypatch, CALL.format(tool, json.dumps(arguments)))
    _, events = send(live, captured)
    path = captured["path"]
    if path.startswith("/v1/messages"):
        start = next(e for e in events if e["type"] == "content_block_start")
        assert start["content_block"]["type"] == "tool_use"
        called = start["content_block"]["name"]
        pieces = [e["delta"].get("partial_json", "") for e in events if "delta" in e]
    elif path == "/v1/responses":
        done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["function_call"]
        called, pieces = done[0]["name"], [done[0]["arguments"]]
    else:
        deltas = [c["delta"] for e in events for c in e["choices"]]
        calls = [call for d in deltas for call in d.get("tool_calls", ())]
        called = calls[0]["function"]["name"]
        pieces = [call["function"]["arguments"] for call in calls]
    assert called == tool and json.loads("".join(pieces)) == arguments
