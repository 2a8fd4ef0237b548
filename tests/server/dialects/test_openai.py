"""What OpenAI's dialects read alike."""

import pytest

from dflash_mlx.server.dialects.chat import ChatCompletions
from dflash_mlx.server.dialects.openai import read_stop, read_tool_choice
from dflash_mlx.server.errors import RequestError
from dflash_mlx.server.schema import ToolChoice, read_body

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]


@pytest.mark.parametrize("stop", [7, {"a": 1}, [1], ["a"] * 17, True])
def test_stop_must_be_texts(stop):
    with pytest.raises(RequestError) as caught:
        read_stop(stop, "stop_sequences")
    assert caught.value.param == "stop_sequences"


@pytest.mark.parametrize(
    "stop, found", [(None, ()), ("a", ("a",)), ([], ()), (["a", ""], ("a",))]
)
def test_stop(stop, found):
    assert read_stop(stop) == found


@pytest.mark.parametrize(
    "choice",
    [
        {"allowed_tools": {"mode": "required", "tools": TOOLS[:1]}},
        {"mode": "required", "tools": [{"type": "function", "name": "f"}]},
        # Tools of OpenAI's own servers have no name, and are passed over.
        {"mode": "required", "tools": [{"type": "web_search"}, TOOLS[0]]},
    ],
)
def test_allowed_tools(choice):
    choice = {"type": "allowed_tools", **choice}
    assert read_tool_choice(choice, TOOLS, True) == ToolChoice("required", ("f",))


@pytest.mark.parametrize(
    "choice",
    [
        {"allowed_tools": 5},
        {"allowed_tools": {"tools": 5}},
        {"tools": ["f"]},
        {"tools": [{"function": "f"}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"name": "h"}]},
    ],
)
def test_allowed_tools_that_cannot_be_used(choice):
    with pytest.raises(RequestError) as caught:
        read_tool_choice({"type": "allowed_tools", **choice}, TOOLS, True)
    assert caught.value.param == "tool_choice"


def test_null_is_absent_in_fields_of_fields_too():
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": None,
        "stream_options": {"include_usage": None},
        "dflash": {"drafts": None},
    }
    assert ChatCompletions().request(body).show_drafts is False


@pytest.mark.parametrize("raw", [b'{"a": NaN}', b'{"a": -Infinity}', b"[1]", b"{"])
def test_bodies_that_are_no_json_objects(raw):
    with pytest.raises(RequestError):
        read_body(raw)
    assert read_body(b'{"a": -1e5}') == {"a": -1e5}
