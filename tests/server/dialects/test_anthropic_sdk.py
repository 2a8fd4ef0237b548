"""The official anthropic SDK reads what the writer sends, and we read what it sends."""

import anthropic
import pytest
from anthropic.types import Message, MessageTokensCount
from pydantic import BaseModel

from dflash_mlx.server.dialects.anthropic import Messages, count_body
from dflash_mlx.server.errors import PromptTooLong, RequestError
from dflash_mlx.server.events import Content, Failed, Reasoning, Started
from dflash_mlx.server.schema import Constraint
from dflash_mlx.text.tool_calls import CallArguments, CallBroken, CallEnd, CallStart
from tests.equipment.played import PlayedServer, answer, run

ASK = {
    "model": "m",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hi"}],
}
CALL = [
    CallStart(0, "call_1", "read"),
    CallArguments(0, '{"path": '),
    CallEnd(0, '{"path": "a", "lines": [1, 2.5]}'),
]
ANSWERS = [
    answer(Content("Hello"), Content(" you")),
    answer(Reasoning("Hm"), Reasoning("."), Content("A"), reason="length"),
    answer(Reasoning("Hm."), Content("A"), *CALL, reason="tool_calls"),
    answer(*CALL, CallStart(1, "call_2", "list"), CallEnd(1, "{}"), Content("é\n")),
    answer(CallBroken(None, "<raw>", "No."), warnings=("A call does not parse.",)),
    answer(Content("A"), stop_string="x"),
    answer(),
]


class Point(BaseModel):
    x: int
    label: str | None = None


def client(server, retries=0):
    return anthropic.AsyncAnthropic(
        api_key="k",
        base_url="http://test",
        http_client=server.client(),
        max_retries=retries,
    )


def call(answers, function, retries=0):
    """The result of function(client, server) with these answers."""
    server = PlayedServer(Messages(), answers)
    return run(lambda: function(client(server, retries), server))


def plain(message):
    """The fields of a message that do not change from request to request."""
    extra = {"id", "dflash", "warnings"}
    return {k: v for k, v in message.to_dict().items() if k not in extra}


@pytest.mark.parametrize("events", ANSWERS)
def test_the_sdk_accumulates_a_stream_to_the_whole_message(events):
    async def both(sdk, server):
        whole = await sdk.messages.create(**ASK, stop_sequences=["x"])
        async with sdk.messages.stream(**ASK, stop_sequences=["x"]) as stream:
            return whole, await stream.get_final_message()

    whole, streamed = call([events, events], both)
    assert plain(whole) == plain(streamed)
    Message.model_validate(whole.to_dict())
    assert whole.usage.input_tokens == 20 and whole.usage.cache_read_input_tokens == 10


def test_the_text_stream_and_its_events():
    async def read(sdk, server):
        async with sdk.messages.stream(**ASK) as stream:
            return [event.type async for event in stream]

    types = call([answer(Reasoning("Hm"), Content("A"))], read)
    assert types == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "thinking",
        "content_block_delta",
        "signature",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "text",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_raw_events_of_create():
    async def read(sdk, server):
        stream = await sdk.messages.create(**ASK, stream=True)
        return [event.type async for event in stream]

    types = call([answer(Content("A"))], read)
    assert types[0] == "message_start" and types[-1] == "message_stop"


def test_parse_and_the_schema_it_sends():
    async def parse(sdk, server):
        message = await sdk.messages.parse(**ASK, output_format=Point)
        return message.parsed_output, server.bodies[0]

    point, body = call([answer(Content('{"x": 3,'), Content(' "label": null}'))], parse)
    assert point == Point(x=3)
    constraint = Messages().request(body).constraint
    schema = body["output_config"]["format"]["schema"]
    assert constraint == Constraint("json_schema", schema)
    assert schema["additionalProperties"] is False


def test_a_parsed_stream():
    async def parse(sdk, server):
        async with sdk.messages.stream(**ASK, output_format=Point) as stream:
            return (await stream.get_final_message()).parsed_output

    assert call([answer(Content('{"x": 3}'))], parse) == Point(x=3)


def test_a_tool_loop_gives_the_answer_back():
    tool = {"name": "read", "input_schema": {"type": "object"}, "strict": True}

    async def loop(sdk, server):
        first = await sdk.messages.create(
            **ASK, tools=[tool], tool_choice={"type": "any"}
        )
        (used,) = [block for block in first.content if block.type == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": used.id, "content": "file"}
        messages = [
            *ASK["messages"],
            first.to_param(),
            {"role": "user", "content": [result]},
        ]
        await sdk.messages.create(**ASK | {"messages": messages}, tools=[tool])
        return server.bodies

    answers = [answer(Reasoning("Hm."), Content("A"), *CALL, reason="tool_calls")]
    first, second = call([*answers, ANSWERS[0]], loop)
    request = Messages().request(first)
    assert request.tools[0]["function"]["strict"] is True
    assert request.tool_choice.mode == "required"
    _, said, result = Messages().request(second).messages
    assert said["content"] == "A" and said["reasoning_content"] == "Hm."
    arguments = {"path": "a", "lines": [1, 2.5]}
    assert said["tool_calls"][0]["function"] == {"name": "read", "arguments": arguments}
    assert result["tool_call_id"] == said["tool_calls"][0]["id"] == "call_1"


def test_hidden_thinking_comes_back():
    thinking = {"type": "adaptive", "display": "omitted"}

    async def turn(sdk, server):
        async with sdk.messages.stream(**ASK, thinking=thinking) as stream:
            return (await stream.get_final_message()).content

    blocks = call([answer(Reasoning("Hm."), Content("A"))], turn)
    said = {"role": "assistant", "content": [block.to_dict() for block in blocks]}
    messages = [*ASK["messages"], said, ASK["messages"][0]]
    found = Messages().request({"messages": messages}).messages[1]
    assert found["reasoning_content"] == "Hm."


def test_count_tokens():
    async def count(sdk, server):
        return await sdk.messages.count_tokens(model="m", messages=ASK["messages"])

    counted = call([count_body(12)], count)
    assert isinstance(counted, MessageTokensCount) and counted.input_tokens == 12


@pytest.mark.parametrize(
    "status, error",
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (413, anthropic.APIStatusError),
        (429, anthropic.RateLimitError),
        (500, anthropic.InternalServerError),
        (503, anthropic.InternalServerError),
    ],
)
def test_each_status_raises_its_exception_without_a_retry(status, error):
    async def ask(sdk, server):
        with pytest.raises(error) as caught:
            await sdk.messages.create(**ASK)
        return caught.value, len(server.bodies)

    raised, requests = call([RequestError("No.", status)] * 3, ask, retries=2)
    assert raised.status_code == status and raised.api_message == "No."
    assert raised.type == Messages().error(RequestError("", status))["error"]["type"]
    assert requests == 1


def test_a_full_queue_is_tried_again():
    full = RequestError("The queue is full.", 429, retry_after=1)

    async def ask(sdk, server):
        message = await sdk.messages.create(**ASK)
        return message.content[0].text, len(server.bodies)

    assert call([full, full, ANSWERS[0]], ask, retries=2) == ("Hello you", 3)


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_in_a_stream_raises(begun):
    events = [Started(9, 0)] if begun else []
    events.append(Failed(PromptTooLong(9, 8)))

    async def ask(sdk, server):
        with pytest.raises(anthropic.APIStatusError, match="9 tokens > 8 maximum"):
            async with sdk.messages.stream(**ASK) as stream:
                await stream.get_final_message()

    call([events], ask)


def test_a_call_that_is_cut_is_closed_in_the_stream_and_not_in_the_message():
    cut = CallBroken(0, "<raw>", "The answer ended.", truncated=True)
    events = answer(*CALL[:2], cut, reason="length")

    async def both(sdk, server):
        whole = await sdk.messages.create(**ASK)
        async with sdk.messages.stream(**ASK) as stream:
            return whole, await stream.get_final_message()

    whole, streamed = call([events, events], both)
    assert whole.content == [] and whole.stop_reason == "max_tokens"
    assert streamed.content[0].input == {} and streamed.stop_reason == "max_tokens"
