"""Anthropic's events and messages, frame by frame."""

import json

import pytest

from dflash_mlx.server.dialects.anthropic import Messages
from dflash_mlx.server.dialects.carried import unpack_reasoning
from dflash_mlx.server.errors import PromptTooLong, RequestError
from dflash_mlx.server.events import (
    Content,
    Failed,
    Prefilled,
    Reasoning,
    Started,
    Waiting,
)
from dflash_mlx.server.schema import Request
from dflash_mlx.text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from tests.equipment.played import answer, collect, read_frames

START = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 10,
    "output_tokens": 0,
    "output_tokens_details": {"thinking_tokens": 0},
}
END = START | {"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}}
CALL = [
    CallStart(0, "call_1", "read"),
    CallArguments(0, '{"path": '),
    CallArguments(0, '"a"}'),
    CallEnd(0, '{"path": "a"}'),
]


def writer(stop=(), **body):
    return Messages().writer(body, Request(stop=stop), "m")


def stream(events, made=None):
    """The stream's events. Their names are their types."""
    made = made or writer()
    found = read_frames([frame for event in events for frame in made.frames(event)])
    assert all(name == body["type"] for name, body in found)
    return [body for _, body in found]


def start(index, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, **fields):
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index):
    return {"type": "content_block_stop", "index": index}


def blocks(events):
    """The events between the ping and the message_delta."""
    return stream(events)[2:-2]


def test_a_whole_stream():
    events = answer(Reasoning("Hm"), Reasoning("."), Content("A"), Content("b"), *CALL)
    found = stream(events)
    assert found[0]["message"].pop("id").startswith("msg_")
    assert found == [
        {
            "type": "message_start",
            "message": {
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "stop_details": None,
                "usage": START,
            },
        },
        {"type": "ping"},
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="Hm"),
        delta(0, type="thinking_delta", thinking="."),
        delta(0, type="signature_delta", signature="dflash-mlx"),
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="A"),
        delta(1, type="text_delta", text="b"),
        stop(1),
        start(2, type="tool_use", id="call_1", name="read", input={}),
        delta(2, type="input_json_delta", partial_json='{"path": '),
        delta(2, type="input_json_delta", partial_json='"a"}'),
        stop(2),
        {
            "type": "message_delta",
            "delta": {
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "stop_details": None,
            },
            "usage": END,
            "dflash": {"rounds": 3},
        },
        {"type": "message_stop"},
    ]


def test_frames_are_named_events():
    made = writer()
    assert made.frames(Started(3, 0))[1] == 'event: ping\ndata: {"type":"ping"}\n\n'
    assert made.frames(Waiting(1)) == made.frames(Prefilled(1, 2)) == []


@pytest.mark.parametrize(
    "reason, stop_string, wanted",
    [
        ("stop", None, ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
        ("stop", "END", ("stop_sequence", "END")),
        # A stop string of the server's is not the client's.
        ("stop", "OWN", ("end_turn", None)),
    ],
)
def test_stop_reasons(reason, stop_string, wanted):
    events = answer(Content("A"), reason=reason, stop_string=stop_string)
    found = stream(events, writer(("END",)))[-2]["delta"]
    assert (found["stop_reason"], found["stop_sequence"]) == wanted
    whole = writer(("END",)).body(collect(events))
    assert (whole["stop_reason"], whole["stop_sequence"]) == wanted


def test_two_calls_and_text_between_them_are_blocks_of_their_own():
    second = [CallStart(1, "call_2", "list"), CallEnd(1, "{}")]
    assert blocks(answer(*CALL, Content("then"), *second))[4:] == [
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="then"),
        stop(1),
        start(2, type="tool_use", id="call_2", name="list", input={}),
        delta(2, type="input_json_delta", partial_json="{}"),
        stop(2),
    ]


def test_arguments_that_were_not_streamed_come_before_the_end():
    events = answer(*CALL[:2], CallEnd(0, '{"path": "é"}'))
    assert blocks(events)[2:] == [
        delta(0, type="input_json_delta", partial_json='"é"}'),
        stop(0),
    ]


def test_a_call_that_is_cut_is_closed_and_dropped():
    broken = CallBroken(0, "<raw>", "The answer ended.", truncated=True)
    warning = "A call was cut."
    events = answer(*CALL[:2], broken, reason="length", warnings=(warning,))
    found = stream(events)
    assert found[2:-2] == [
        start(0, type="tool_use", id="call_1", name="read", input={}),
        delta(0, type="input_json_delta", partial_json='{"path": '),
        stop(0),
    ]
    assert found[-2]["delta"]["stop_reason"] == "max_tokens"
    assert found[-2]["warnings"] == [warning]
    whole = writer().body(collect(events))
    assert whole["content"] == [] and whole["warnings"] == [warning]


def test_a_call_that_does_not_parse_is_text():
    text = {"type": "text", "text": "So <raw>"}
    events = answer(Content("So "), CallBroken(None, "<raw>", "It is not JSON."))
    assert blocks(events)[-2:] == [delta(0, type="text_delta", text="<raw>"), stop(0)]
    assert writer().body(collect(events))["content"] == [text]
    # If its beginning was sent already, its block is closed.
    events = answer(*CALL[:2], CallBroken(0, "<raw>", "It is not JSON."))
    assert blocks(events)[2:] == [
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="<raw>"),
        stop(1),
    ]
    content = writer().body(collect(events))["content"]
    assert content == [{"type": "text", "text": "<raw>"}]


def test_empty_text_opens_no_block():
    assert blocks(answer(Reasoning(""), Content(""))) == []


def test_thinking_that_is_not_displayed_is_in_the_signature():
    events = answer(Reasoning("Hm"), Reasoning("."), Content("A"))
    made = writer(thinking={"type": "adaptive", "display": "omitted"})
    first, signed, last = stream(events, made)[2:5]
    assert first == start(0, type="thinking", thinking="", signature="")
    assert unpack_reasoning(signed["delta"]["signature"]) == "Hm." and last == stop(0)
    whole = writer(thinking={"display": "omitted"}).body(collect(events))
    assert whole["content"][0]["thinking"] == ""
    assert whole["content"][0]["signature"] == signed["delta"]["signature"]


def test_keep_alives_are_comments_and_then_pings():
    made = writer()
    assert made.keep_alive(Waiting(2)) == ": queued 2\n\n"
    assert made.keep_alive(Waiting(0, "big")) == ": loading big\n\n"
    made.frames(Started(3, 0))
    assert made.keep_alive(Prefilled(1, 3)) == 'event: ping\ndata: {"type":"ping"}\n\n'


def test_errors_in_a_stream():
    for error in (RequestError("Broken.", 500), PromptTooLong(9, 8)):
        for made in (writer(), writer()):
            (frame,) = made.frames(Failed(error))
            assert read_frames([frame]) == [("error", Messages().error(error))]
            made.frames(Started(3, 0))


def test_the_whole_message():
    events = answer(Reasoning("Hm."), Content("A"), *CALL, reason="tool_calls")
    body = writer().body(collect(events))
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "dflash-mlx"},
            {"type": "text", "text": "A"},
            {
                "type": "tool_use",
                "id": "call_1",
                "name": "read",
                "input": {"path": "a"},
            },
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": END,
        "dflash": {"rounds": 3},
    }
    json.dumps(body)
