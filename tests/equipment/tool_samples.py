"""Answers with tool calls as models of each family write them, and what they mean."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from dflash_mlx.text.tool_calls import (
    CallBroken,
    CallEnd,
    CallStart,
    Text,
    ToolCallParser,
    ToolEvent,
    formats,
)
from tests.equipment.tool_writers import (
    CHANNEL,
    PLAIN_CHANNEL,
    ROLE,
    deepseek,
    dsml,
    gemma,
    glm,
    harmony,
    hermes,
    kimi,
    kimi_k3,
    lfm2,
    llama,
    minicpm,
    minimax,
    muse,
    numbered,
    qwen,
    written,
)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool as in a request."""
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS = [
    tool("get_time"),
    tool("get_weather", city=STRING, days=INTEGER),
    tool(
        "write-file",
        path=STRING,
        content=STRING,
        mode={"type": "string", "enum": ["w", "a"]},
        options={"type": "object", "properties": {"tags": {"type": "array"}}},
        count=INTEGER,
        ratio={"type": "number"},
        force={"type": "boolean"},
    ),
]
# What hard arguments look like: nested, not English, quotes, lines, numbers as strings.
HARD = {
    "path": "é 日本😀",
    "content": '"it\'s {1, 2}".\n\tC:\\d <b>\n',
    "mode": "w",
    "options": {"tags": ["a, b", {"d": [-2.5, True, None, ""]}], "e": {}},
    "count": 9007199254740993,
    "ratio": 0.1,
    "force": False,
}
NUMBERS = {"path": "007", "content": "null"}


class Sample(NamedTuple):
    """An answer with calls.

    Args:
        format: Its format.
        text: The answer.
        calls: (id, name, arguments) of each call.
        texts: The text outside of calls.
        end: The length of what ends the last call: with less, it is not whole.
    """

    format: formats.ToolFormat
    text: str
    calls: list[tuple[str, str, dict]]
    texts: str = ""
    end: int = 0


PARIS = ("", "get_weather", {"city": "Paris", "days": 3})
TIME = ("", "get_time", {})
WRITE = ("", "write-file", HARD)
STRINGS = ("", "write-file", NUMBERS)


def samples_of(format, write, end=0, **options):
    """Samples with one call, two, without arguments, hard ones, text around."""
    several = [[STRINGS], [WRITE, TIME], [TIME, PARIS]]
    found = [
        Sample(format, write(*calls, **options), calls, end=end) for calls in several
    ]
    text = f"Look.\n\n{write(PARIS, **options)}"
    return [*found, Sample(format, text, [PARIS], "Look.\n\n", end)]


SAMPLES = [
    *samples_of(formats.HERMES, hermes, len("</tool_call>")),
    *samples_of(formats.QWEN, qwen, len("\n</tool_call>")),
    *samples_of(formats.QWEN, qwen, len("\n</tool_call>"), one_block=True),
    *samples_of(formats.QWEN, qwen, wrapped=False),
    *samples_of(formats.GLM, glm),
    *samples_of(formats.GLM, glm, space=""),
    *samples_of(formats.MINIMAX, minimax, len("\n</minimax:tool_call>")),
    *samples_of(formats.MUSE, muse, len("\n</atem:function_calls>")),
    *samples_of(formats.DSML, dsml, len("\n</｜DSML｜function_calls>")),
    *samples_of(formats.MINICPM, minicpm),
    *samples_of(formats.KIMI_K3, kimi_k3, len("<|close|>tools<|sep|>")),
    *samples_of(formats.GEMMA_4, gemma),
    *samples_of(formats.LFM2, lfm2, len("]<|tool_call_end|>")),
    *samples_of(formats.LFM2, lfm2, len("]<|tool_call_end|>"), value=written),
    *samples_of(formats.DEEPSEEK_V3, deepseek, len("<｜tool▁calls▁end｜>")),
    *samples_of(formats.DEEPSEEK_V3, deepseek, len("<｜tool▁calls▁end｜>"), fence=True),
    *(
        Sample(formats.KIMI_K2, "Hi. " * n + kimi(*calls), calls, "Hi. " * n, 26)
        for n, calls in (
            (0, numbered(PARIS)),
            (1, numbered(WRITE, TIME)),
            (2, numbered(TIME, PARIS, WRITE)),
        )
    ),
    *(
        Sample(
            formats.HARMONY,
            before + harmony(call[1], call[2], header, "<|call|>"),
            [call],
            before.removesuffix("<|start|>assistant"),
        )
        for before, header in (
            ("", CHANNEL),
            ("", PLAIN_CHANNEL),
            ("", ROLE),
            ("Look: ", "<|start|>assistant" + CHANNEL),
            ("", "<|start|>assistant" + ROLE),
        )
        for call in (PARIS, TIME, WRITE)
    ),
    Sample(
        formats.HARMONY,
        harmony("get_time", {}, CHANNEL)
        + "<|start|>assistant"
        + harmony("write-file", HARD, CHANNEL),
        [TIME, WRITE],
    ),
    *(
        Sample(
            formats.LLAMA,
            prefix + llama(*calls),
            calls,
        )
        for prefix in ("", "<|python_tag|>")
        for calls in ([PARIS], [TIME], [WRITE], [WRITE, TIME])
    ),
    *(
        Sample(formats.MISTRAL, "[TOOL_CALLS]" + text, calls, end=end)
        for text, calls, end in (
            (f"[{llama(PARIS).replace('parameters', 'arguments')}]", [PARIS], 1),
            (
                f' [{{"name": "write-file", "arguments": {written(HARD)}, "id": "a"}}, '
                '{"name": "get_time", "arguments": {}}]',
                [WRITE, TIME],
                1,
            ),
            (f"write-file[ARGS]{written(HARD)}", [WRITE], 0),
            (
                f"get_time[CALL_ID]a2[ARGS]{{}}[TOOL_CALLS]write-file[ARGS]"
                f"{written(NUMBERS)}",
                [("a2", *TIME[1:]), STRINGS],
                0,
            ),
            (
                f"get_time[ARGS]{{}}get_weather[ARGS]{written(PARIS[2])}",
                [TIME, PARIS],
                0,
            ),
        )
    ),
]


class Result(NamedTuple):
    """What a parser made of an answer.

    Args:
        calls: (id, name, arguments) of whole calls.
        text: All text outside of calls.
        broken: The events of broken calls.
        warnings: The parser's.
        arguments: The JSON text of each whole call's arguments.
        outside: Text and the text of broken calls, in order.
    """

    calls: list[tuple[str, str, dict]]
    text: str
    broken: list[CallBroken]
    warnings: list[str]
    arguments: list[str]
    outside: str


def cut(text, places):
    """The text in pieces."""
    places = sorted(places)
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def parse(format, pieces, tools=TOOLS, truncated=False) -> Result:
    """Parse pieces of an answer, and check the order of the events."""
    parser = ToolCallParser(format, tools)
    events = [event for piece in pieces for event in parser.push(piece)]
    return result(events + parser.close(truncated), parser.warnings)


def result(events: list[ToolEvent], warnings: list[str]) -> Result:
    """Collect events, and check that they come in a legal order."""
    calls, texts, broken, written_arguments, outside = [], [], [], [], []
    started: CallStart | None = None
    fragments: list[str] = []
    for event in events:
        if isinstance(event, Text):
            assert started is None and event.text
            texts.append(event.text)
            outside.append(event.text)
        elif isinstance(event, CallStart):
            last = [e.index for e in broken if e.index is not None]
            assert started is None and event.index == len(calls) + len(last)
            started, fragments = event, []
        elif isinstance(event, CallBroken):
            assert event.index == (started.index if started else None)
            started = None
            broken.append(event)
            outside.append(event.raw)
        else:
            assert started is not None and event.index == started.index
            if isinstance(event, CallEnd):
                assert event.arguments == "".join(fragments)
                arguments = json.loads(event.arguments)
                assert isinstance(arguments, dict)
                calls.append((started.id, started.name, arguments))
                written_arguments.append(event.arguments)
                started = None
            else:
                fragments.append(event.fragment)
    assert started is None
    text, outside = "".join(texts), "".join(outside)
    return Result(calls, text, broken, warnings, written_arguments, outside)
