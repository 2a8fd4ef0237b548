"""Anthropic's tools: which are offered, and those that messages load later."""

import json
from threading import Lock

import pytest

from dflash_mlx.server.dialects.anthropic import Messages
from dflash_mlx.server.errors import RequestError
from dflash_mlx.server.prompt import prepare
from dflash_mlx.server.reasoning_store import ReasoningStore
from dflash_mlx.server.settings import Defaults
from tests.equipment.tool_tokenizer import tool_tokenizer

SCHEMA = {"type": "object", "properties": {"url": {"type": "string"}}}
READ = {"name": "read", "description": "Reads.", "input_schema": SCHEMA}
FETCH = {"name": "fetch", "description": "Fetches.", "input_schema": SCHEMA}
LATER = FETCH | {"defer_loading": True}
ASK = {"role": "user", "content": "Fetch it."}
SEARCH = {"type": "tool_use", "id": "t1", "name": "search", "input": {}}
REFERENCE = {"type": "tool_reference", "tool_name": "fetch"}
FOUND = {"type": "tool_result", "tool_use_id": "t1", "content": [REFERENCE]}
LOADED = [
    ASK,
    {"role": "assistant", "content": [SEARCH]},
    {"role": "user", "content": [FOUND]},
]
DEFINITION = {"name": "fetch", "description": "Fetches.", "parameters": SCHEMA}


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tool_tokenizer(tiny[1].eos_token_ids)


def read(*messages, tools=(READ, LATER), **more):
    body = {"max_tokens": 9, "messages": list(messages), "tools": list(tools), **more}
    return Messages().request(body)


def names(request):
    return [tool["function"]["name"] for tool in request.tools]


def prompt(tokenizer, request):
    prepared = prepare(request, tokenizer, Defaults(), None, ReasoningStore(), Lock())
    return tokenizer.decode(prepared.ids)


def test_a_tool_that_is_loaded_later_is_not_offered_before():
    request = read(ASK)
    assert names(request) == ["read"] and request.loaded_tools == ()


def test_a_tool_reference_defines_its_tool(tokenizer):
    request = read(*LOADED)
    assert names(request) == ["read", "fetch"] and request.loaded_tools == ("fetch",)
    text = request.messages[-1]["content"]
    assert text.startswith("<functions>\n<function>")
    line = text.split("\n")[1].removeprefix("<function>").removesuffix("</function>")
    assert json.loads(line) == DEFINITION
    assert prompt(tokenizer, request).count("Fetches.") == 1


def test_loading_a_tool_keeps_the_prompt_before_it(tokenizer):
    before, _, _ = prompt(tokenizer, read(ASK)).rpartition("<|im_start|>assistant")
    assert before and prompt(tokenizer, read(*LOADED)).startswith(before)


def test_a_tool_that_must_be_called_is_offered(tokenizer):
    request = read(ASK, tool_choice={"type": "tool", "name": "fetch"})
    assert names(request) == ["read", "fetch"] and request.loaded_tools == ()
    assert "Fetches." in prompt(tokenizer, request)


def test_tools_are_offered_at_once_if_anthropics_servers_would_search_them():
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search"}
    request = read(ASK, tools=[search, READ, LATER])
    assert names(request) == ["read", "fetch"]
    assert "runs no tools" in request.warnings[0]


def test_messages_add_and_remove_tools(tokenizer):
    tool = {"type": "tool_definition", "definition": FETCH}
    add = {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}
    request = read(ASK, add, tools=[READ])
    assert names(request) == ["read", "fetch"] and request.loaded_tools == ("fetch",)
    assert prompt(tokenizer, request).count("Fetches.") == 1
    by_name = {"type": "tool_reference", "name": "fetch"}
    add["content"] = [{"type": "tool_addition", "tool": by_name}]
    assert names(read(ASK, add)) == ["read", "fetch"]
    gone = {"type": "tool_reference", "name": "read"}
    remove = {"type": "tool_removal", "tool": gone}
    request = read(ASK, {"role": "system", "content": [remove]})
    text = "Fetch it.\n\nThe tool read is not available any more."
    assert request.messages[-1]["content"] == text


def test_a_reference_to_an_unknown_tool_is_named():
    request = read(*LOADED, tools=[READ])
    assert request.messages[-1]["content"] == "The tool fetch is available."
    assert names(request) == ["read"]


def test_a_definition_without_a_name_is_refused():
    tool = {"type": "tool_definition", "definition": {"input_schema": SCHEMA}}
    add = {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]}
    with pytest.raises(RequestError, match="tool_addition.0 must have a name"):
        read(ASK, add)
