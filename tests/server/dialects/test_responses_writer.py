"""Events and bodies of Responses, frame by frame."""

import json

import pytest
from openai.types.responses import Response

from dflash_mlx.server.dialects.carried import unpack_reasoning
from dflash_mlx.server.dialects.responses import Responses
from dflash_mlx.server.dialects.responses_items import custom_input
from dflash_mlx.server.errors import PromptTooLong, RequestError
from dflash_mlx.server.events import (
    Content,
    Failed,
    Prefilled,
    Reasoning,
    Started,
    Step,
    TokenLogprob,
    Waiting,
)
from dflash_mlx.text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from tests.equipment.played import SPEED, answer, collect, read_frames

CALL = [
    CallStart(0, "call_1", "read"),
    CallArguments(0, '{"path": '),
    CallArguments(0, '"a"}'),
    CallEnd(0, '{"path": "a"}'),
]
TOOLS = [
    {"type": "function", "name": "read", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
    {
        "type": "namespace",
        "name": "mcp__files",
        "tools": [{"type": "function", "name": "list"}],
    },
]
USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 37,
}
CARRY = ["reasoning.encrypted_content"]


def writer(**body):
    body = {"input": "Hi", "tools": TOOLS, **body}
    dialect = Responses()
    made = dialect.writer(body, dialect.request(body), "m")
    made.token = "T"  # in the identifiers of items
    return made


def stream(events, made=None):
    """The stream's events. Their names are their types, their numbers in order."""
    made = made or writer()
    found = read_frames([frame for event in events for frame in made.frames(event)])
    assert all(name == body["type"] for name, body in found)
    numbers = [body.pop("sequence_number") for _, body in found]
    assert numbers == list(range(len(numbers)))
    return [body for _, body in found]


def items(events, made=None):
    """The events between response.in_progress and the last one, without "response."."""
    found = stream(events, made)[2:-1]
    for body in found:
        body["type"] = body["type"].removeprefix("response.")
    return found


def part(text, logprobs=()):
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [*logprobs],
    }


def message(id, status, *parts):
    return {
        "id": id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [*parts],
    }


def text_events(index, *pieces, status="completed"):
    """All events of a message of the text `pieces`."""
    id, text = f"msg_T{index}", "".join(pieces)
    where = {"item_id": id, "output_index": index, "content_index": 0}
    return [
        {
            "type": "output_item.added",
            "output_index": index,
            "item": message(id, "in_progress"),
        },
        {"type": "content_part.added", **where, "part": part("")},
        *[
            {"type": "output_text.delta", **where, "delta": piece, "logprobs": []}
            for piece in pieces
        ],
        {"type": "output_text.done", **where, "text": text, "logprobs": []},
        {"type": "content_part.done", **where, "part": part(text)},
        {
            "type": "output_item.done",
            "output_index": index,
            "item": message(id, status, part(text)),
        },
    ]


def call(status, arguments, index=0):
    return {
        "id": f"fc_T{index}",
        "type": "function_call",
        "status": status,
        "call_id": "call_1",
        "name": "read",
        "arguments": arguments,
    }


def test_the_frame_of_a_stream():
    events = answer(Content("A"))
    first, second, *_, last = stream(events)
    assert [first["type"], second["type"], last["type"]] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    begun, ended = first["response"], last["response"]
    assert begun == second["response"] and begun["id"].startswith("resp_")
    assert begun["status"] == "in_progress" and begun["usage"] is None
    assert begun["output"] == [] and begun["object"] == "response"
    assert ended["id"] == begun["id"] and ended["status"] == "completed"
    assert ended["usage"] == USAGE and ended["dflash"] == {"rounds": 3}
    assert ended["output"] == [message("msg_T0", "completed", part("A"))]
    assert ended["error"] is ended["incomplete_details"] is None
    made = writer()
    frame = made.frames(Started(3, 0))[0]
    assert frame.startswith('event: response.created\ndata: {"type":"response.created"')
    assert made.frames(Waiting(1)) == made.frames(Prefilled(1, 2)) == []


def test_text():
    assert items(answer(Content("A"), Content(""), Content("b"))) == text_events(
        0, "A", "b"
    )


def test_reasoning():
    id = {"item_id": "rs_T0", "output_index": 0, "summary_index": 0}
    item = {"id": "rs_T0", "type": "reasoning"}
    summary = {"type": "summary_text", "text": "Hm."}
    assert items(answer(Reasoning("Hm"), Reasoning("."), Content("A"))) == [
        {
            "type": "output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "summary": []},
        },
        {
            "type": "reasoning_summary_part.added",
            **id,
            "part": {**summary, "text": ""},
        },
        {"type": "reasoning_summary_text.delta", **id, "delta": "Hm"},
        {"type": "reasoning_summary_text.delta", **id, "delta": "."},
        {"type": "reasoning_summary_text.done", **id, "text": "Hm."},
        {"type": "reasoning_summary_part.done", **id, "part": summary},
        {
            "type": "output_item.done",
            "output_index": 0,
            "item": {**item, "status": "completed", "summary": [summary]},
        },
        *text_events(1, "A"),
    ]


def test_empty_text_opens_no_item():
    assert items(answer(Reasoning(""), Content(""))) == []


def test_reasoning_is_carried_where_it_is_asked_for():
    made = writer(include=CARRY)
    done = items(answer(Reasoning("Hm"), Reasoning(".")), made)[-1]["item"]
    assert unpack_reasoning(done["encrypted_content"]) == "Hm."


def test_a_function_call():
    id = {"item_id": "fc_T0", "output_index": 0}
    delta = {"type": "function_call_arguments.delta", **id}
    done = {"type": "function_call_arguments.done", **id, "name": "read"}
    assert items(answer(*CALL, reason="tool_calls")) == [
        {
            "type": "output_item.added",
            "output_index": 0,
            "item": call("in_progress", ""),
        },
        {**delta, "delta": '{"path": '},
        {**delta, "delta": '"a"}'},
        {**done, "arguments": '{"path": "a"}'},
        {
            "type": "output_item.done",
            "output_index": 0,
            "item": call("completed", '{"path": "a"}'),
        },
    ]


def test_arguments_that_were_not_streamed_come_before_the_end():
    found = items(answer(*CALL[:2], CallEnd(0, '{"path": "é"}')))
    assert [body.get("delta") for body in found] == [
        None,
        '{"path": ',
        '"é"}',
        None,
        None,
    ]


def test_items_follow_the_order_of_the_answer():
    events = answer(Content("A"), *CALL, Content("b"), Reasoning("Hm"), *CALL)
    found = [body["item"] for body in items(events) if body["type"].endswith("m.done")]
    ids = ["msg_T0", "fc_T1", "msg_T2", "rs_T3", "fc_T4"]
    assert [item["id"] for item in found] == ids
    assert found == stream(events)[-1]["response"]["output"]


def test_a_custom_call_is_raw_text():
    raw = '*** Begin\n"é\\n"'
    arguments = json.dumps({"input": raw})
    parts = [
        CallStart(0, "call_1", "patch"),
        CallArguments(0, arguments[:9]),
        CallEnd(0, arguments),
    ]
    item = {
        "id": "ctc_T1",
        "type": "custom_tool_call",
        "call_id": "call_1",
        "name": "patch",
    }
    id = {"item_id": "ctc_T1", "output_index": 1}
    events = answer(Content("A"), *parts, reason="tool_calls")
    assert items(events) == [
        *text_events(0, "A"),
        {
            "type": "output_item.added",
            "output_index": 1,
            "item": {**item, "status": "in_progress", "input": ""},
        },
        {"type": "custom_tool_call_input.delta", **id, "delta": raw},
        {"type": "custom_tool_call_input.done", **id, "input": raw},
        {
            "type": "output_item.done",
            "output_index": 1,
            "item": {**item, "status": "completed", "input": raw},
        },
    ]


def test_custom_inputs_of_other_arguments():
    assert custom_input('{"input": "a", "more": 1}') == "a"
    for arguments in ('{"patch": "a"}', '{"input": 5}', "[1]", "{}"):
        assert custom_input(arguments) == arguments


def test_a_call_of_a_grouped_tool_names_its_group():
    parts = [CallStart(0, "call_1", "mcp__files__list"), CallEnd(0, "{}")]
    done = items(answer(*parts))[-1]["item"]
    assert done["name"] == "list" and done["namespace"] == "mcp__files"


def test_a_length_that_is_reached():
    events = answer(Reasoning("Hm"), Content("A"), reason="length", warnings=("W.",))
    *_, last = stream(events)
    assert last["type"] == "response.incomplete"
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["warnings"] == ["W."]
    statuses = [item["status"] for item in last["response"]["output"]]
    assert statuses == ["completed", "incomplete"]
    assert items(events)[-6:] == text_events(1, "A", status="incomplete")


def test_a_call_that_is_cut_is_closed_as_incomplete_and_dropped():
    cut = CallBroken(0, "<raw>", "The answer ended.", truncated=True)
    events = answer(*CALL[:2], cut, reason="length")
    assert items(events)[2:] == [
        {
            "type": "output_item.done",
            "output_index": 0,
            "item": call("incomplete", '{"path": '),
        }
    ]
    assert stream(events)[-1]["response"]["output"] == []
    # Nothing of a custom call is sent: clients run it whatever its status.
    events = answer(CallStart(0, "call_1", "patch"), cut, reason="length")
    assert items(events) == []


def test_a_call_that_does_not_parse_is_text():
    broken = CallBroken(None, "<raw>", "It is not JSON.")
    assert items(answer(Content("So "), broken)) == text_events(0, "So ", "<raw>")
    events = answer(*CALL[:2], CallBroken(0, "<raw>", "It is not JSON."))
    assert items(events)[2]["item"] == call("incomplete", '{"path": ')
    assert items(events)[3:] == text_events(1, "<raw>")
    output = stream(events)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message"]


def test_logprobs():
    def entry(text, value, top=None):
        found = {"token": text, "logprob": value, "bytes": list(text.encode())}
        return found if top is None else {**found, "top_logprobs": top}

    tokens = [TokenLogprob("A", -0.5, (("A", -0.5), ("B", -1.5))), TokenLogprob("é", 0)]
    parts = [Step(0, (Content("A"),), (tokens[0],), SPEED)]
    parts.append(Step(0, (Content("é"),), (tokens[1],), SPEED))
    first = entry("A", -0.5, [entry("A", -0.5), entry("B", -1.5)])
    second = entry("é", 0, [])
    found = items(answer(*parts), writer(top_logprobs=2))
    assert [body["logprobs"] for body in found[2:5]] == [
        [first],
        [second],
        [first, second],
    ]
    assert found[-1]["item"]["content"] == [part("Aé", [first, second])]
    # They are left out unless they were asked for.
    assert items(answer(*parts)) == text_events(0, "A", "é")


def test_keep_alives_are_events():
    made = writer()
    for kind in ("created in_progress", "in_progress"):
        found = read_frames([made.keep_alive(Waiting(2))])
        names = [f"response.{each}" for each in kind.split()]
        assert [name for name, _ in found] == names
    assert made.frames(Started(3, 0)) == []
    for event in answer(Reasoning("Hm"), Content("A"))[1:3]:
        made.frames(event)
    ((name, body),) = read_frames([made.keep_alive(None)])
    assert name == "response.in_progress" and body["response"]["output"] == []
    assert body["sequence_number"] == 12


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "error, code",
    [
        (PromptTooLong(9, 8), "context_length_exceeded"),
        (RequestError("No.", 400), "invalid_prompt"),
        (RequestError("No.", 429), "rate_limit_exceeded"),
        (RequestError("No.", 500), "server_error"),
        (RequestError("No.", 400, "grammar"), "grammar"),
    ],
)
def test_failures_in_a_stream(error, code, begun):
    events = [Started(3, 0)] if begun else []
    *first, last = stream([*events, Failed(error)])
    names = ["response.created", "response.in_progress"]
    assert [body["type"] for body in first] == names
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"] == {"code": code, "message": error.message}


@pytest.mark.parametrize(
    "events",
    [
        answer(),
        answer(Reasoning("Hm"), Content("A"), *CALL, reason="tool_calls"),
        answer(CallStart(0, "c", "patch"), CallEnd(0, '{"input": "x"}')),
        answer(Content("A"), reason="length", warnings=("W.",)),
    ],
)
def test_the_whole_answer_is_the_end_of_the_stream_and_a_valid_response(events):
    body = {"include": CARRY, "top_logprobs": 0, "metadata": {"a": "b"}}
    whole = writer(**body).body(collect(events))
    streamed = stream(events, writer(**body))[-1]["response"]
    assert whole["output"] == streamed["output"]
    times = ("id", "created_at", "completed_at")
    assert all(whole[name] == streamed[name] for name in whole if name not in times)
    json.dumps(whole)
    Response.model_validate(whole)
