"""The official openai SDK reads the writer's responses, and we read what it sends."""

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from dflash_mlx.server.dialects.responses import Responses
from dflash_mlx.server.errors import PromptTooLong, RequestError
from dflash_mlx.server.events import Content, Failed, Reasoning, Started
from dflash_mlx.server.schema import Constraint
from dflash_mlx.text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from tests.equipment.played import PlayedServer, answer, run

ASK = {"model": "m", "input": "Hi"}
CALL = [
    CallStart(0, "call_1", "read"),
    CallArguments(0, '{"path": '),
    CallEnd(0, '{"path": "a"}'),
]
PATCH = [CallStart(0, "call_1", "patch"), CallEnd(0, '{"input": "*** Begin\\n"}')]
READ = {
    "type": "function",
    "name": "read",
    "parameters": {"type": "object"},
    "strict": True,
}
TOOLS = [READ, {"type": "custom", "name": "patch"}, {"type": "web_search"}]
ANSWERS = [
    answer(Content("Hello"), Content(" you")),
    answer(Reasoning("Hm"), Content("A")),
    answer(Reasoning("Hm."), Content("A"), *CALL, reason="tool_calls"),
    answer(*CALL, Content("é\n"), *PATCH),
    answer(*CALL[:2], CallBroken(0, "<raw>", "No."), warnings=("Does not parse.",)),
    answer(),
]


class Point(BaseModel):
    x: int


def call(answers, function, retries=0):
    """The result of function(client, server) with these answers."""
    server = PlayedServer(Responses(), answers)
    client = openai.AsyncOpenAI(
        api_key="k",
        base_url="http://test/v1",
        http_client=server.client(),
        max_retries=retries,
    )
    return run(lambda: function(client, server))


def plain(value):
    """A response's fields, without those that change from request to request."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    changing = ("id", "created_at", "completed_at", "parsed", "parsed_arguments")
    return {k: plain(v) for k, v in value.items() if k not in changing}


@pytest.mark.parametrize("events", ANSWERS)
def test_the_sdk_accumulates_a_stream_to_the_whole_response(events):
    async def both(sdk, server):
        whole = await sdk.responses.create(**ASK, tools=TOOLS)
        async with sdk.responses.stream(**ASK, tools=TOOLS) as stream:
            return whole, await stream.get_final_response()

    whole, streamed = call([events, events], both)
    assert plain(whole.to_dict()) == plain(streamed.to_dict())
    Response.model_validate(whole.to_dict())
    assert whole.usage.total_tokens == 37


def test_the_stream_gives_deltas_that_add_up():
    async def read(sdk, server):
        async with sdk.responses.stream(**ASK) as stream:
            return [event async for event in stream]

    events = call([answer(Content("Hello"), Content(" you"))], read)
    deltas = [e for e in events if e.type == "response.output_text.delta"]
    assert [event.snapshot for event in deltas] == ["Hello", "Hello you"]
    assert events[-1].response.output_text == "Hello you"


def test_raw_events_of_create():
    async def read(sdk, server):
        stream = await sdk.responses.create(**ASK, stream=True)
        return [(event.type, event.sequence_number) async for event in stream]

    events = call([answer(Content("A"))], read)
    assert [number for _, number in events] == list(range(9))
    assert events[0][0] == "response.created" and events[-1][0] == "response.completed"


def test_a_length_that_is_reached():
    async def read(sdk, server):
        whole = await sdk.responses.create(**ASK)
        stream = await sdk.responses.create(**ASK, stream=True)
        return whole, [event async for event in stream][-1]

    events = answer(Content("A"), reason="length")
    whole, last = call([events, events], read)
    assert last.type == "response.incomplete" and whole.status == "incomplete"
    assert plain(last.response.to_dict()) == plain(whole.to_dict())
    assert whole.incomplete_details.reason == "max_output_tokens"


def test_parse_and_the_schema_it_sends():
    async def parse(sdk, server):
        whole = await sdk.responses.parse(**ASK, text_format=Point)
        async with sdk.responses.stream(**ASK, text_format=Point) as stream:
            final = await stream.get_final_response()
        return whole.output_parsed, final.output_parsed, server.bodies[0]

    events = answer(Reasoning("Hm"), Content('{"x":'), Content(" 3}"))
    whole, streamed, body = call([events, events], parse)
    assert whole == streamed == Point(x=3)
    schema = body["text"]["format"]["schema"]
    assert Responses().request(body).constraint == Constraint("json_schema", schema)


def test_a_tool_loop_gives_the_answer_back():
    carry = {"include": ["reasoning.encrypted_content"], "store": False}

    async def loop(sdk, server):
        first = await sdk.responses.create(
            **ASK, **carry, tools=TOOLS, tool_choice="required"
        )
        used = [item for item in first.output if item.type.endswith("call")]
        outputs = [
            {"type": f"{item.type}_output", "call_id": item.call_id, "output": "ok"}
            for item in used
        ]
        given = [{"role": "user", "content": "Hi"}, *first.output, *outputs]
        await sdk.responses.create(model="m", input=given, **carry, tools=TOOLS)
        return server.bodies

    second = [CallStart(1, "call_2", "patch"), *PATCH[1:]]
    events = answer(Reasoning("Hm."), Content("A"), *CALL, *second)
    first, body = call([events, ANSWERS[0]], loop)
    request = Responses().request(first)
    assert request.tools[0]["function"]["strict"] is True
    assert request.tool_choice.mode == "required" and len(request.tools) == 2
    _, said, *results = Responses().request(body).messages
    assert said["content"] == "A" and said["reasoning_content"] == "Hm."
    functions = [each["function"] for each in said["tool_calls"]]
    assert functions == [
        {"name": "read", "arguments": {"path": "a"}},
        {"name": "patch", "arguments": {"input": "*** Begin\n"}},
    ]
    assert [(r["tool_call_id"], r["name"], r["content"]) for r in results] == [
        ("call_1", "read", "ok"),
        ("call_2", "patch", "ok"),
    ]


@pytest.mark.parametrize(
    "status, error",
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (413, openai.APIStatusError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_each_status_raises_its_exception_without_a_retry(status, error):
    async def ask(sdk, server):
        with pytest.raises(error, match="No\\.") as caught:
            await sdk.responses.create(**ASK)
        return caught.value, len(server.bodies)

    failed = RequestError("No.", status, "the_code", "the_param")
    raised, requests = call([failed] * 3, ask, retries=2)
    assert raised.code == "the_code" and raised.param == "the_param"
    assert raised.status_code == status and requests == 1


def test_a_full_queue_is_tried_again():
    full = RequestError("The queue is full.", 429, retry_after=1)

    async def ask(sdk, server):
        return (await sdk.responses.create(**ASK)).output_text, len(server.bodies)

    assert call([full, full, ANSWERS[0]], ask, retries=2) == ("Hello you", 3)


def test_a_request_that_needs_stored_responses_is_refused():
    async def ask(sdk, server):
        with pytest.raises(openai.BadRequestError, match="stores nothing"):
            await sdk.responses.create(**ASK, previous_response_id="resp_1")

    call([ANSWERS[0]], ask)


@pytest.mark.parametrize("begun", [False, True])
def test_a_failure_in_a_stream_is_its_last_event(begun):
    events = [Started(9, 0)] if begun else []
    events.append(Failed(PromptTooLong(9, 8)))

    async def read(sdk, server):
        async with sdk.responses.stream(**ASK) as stream:
            return [event async for event in stream]

    first, _, last = call([events], read)
    assert first.type == "response.created" and last.type == "response.failed"
    assert last.response.error.code == "context_length_exceeded"
    assert last.response.id == first.response.id
