"""Tool calls written as models of each family write them.

Each function takes calls of the form (id, name, arguments).
"""

from __future__ import annotations

import json
from typing import Any


def written(value: Any) -> str:
    """JSON as models write it."""
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    """A value between tags: strings without quotes."""
    return value if isinstance(value, str) else written(value)


def hermes(*calls):
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {written(arguments)}}}\n'
        "</tool_call>"
        for _, name, arguments in calls
    )


def qwen(*calls, one_block=False, wrapped=True):
    functions = [
        f"<function={name}>\n"
        + "".join(
            f"<parameter={key}>\n{plain(value)}\n</parameter>\n"
            for key, value in arguments.items()
        )
        + "</function>"
        for _, name, arguments in calls
    ]
    if not wrapped:
        return "\n".join(functions)
    if one_block:
        return "<tool_call>\n" + "\n".join(functions) + "\n</tool_call>"
    return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in functions)


def glm(*calls, space="\n"):
    return "".join(
        f"<tool_call>{name}"
        + "".join(
            f"{space}<arg_key>{key}</arg_key>{space}<arg_value>{plain(value)}</arg_value>"
            for key, value in arguments.items()
        )
        + space
        + "</tool_call>"
        for _, name, arguments in calls
    )


def minimax(*calls):
    return (
        "<minimax:tool_call>\n"
        + "".join(
            f'<invoke name="{name}">\n'
            + "".join(
                f'<parameter name="{key}">{plain(value)}</parameter>\n'
                for key, value in arguments.items()
            )
            + "</invoke>\n"
            for _, name, arguments in calls
        )
        + "</minimax:tool_call>"
    )


def muse(*calls):
    text = minimax(*calls).replace("minimax:tool_call", "atem:function_calls")
    for tag in ("invoke", "parameter"):
        text = text.replace(f"<{tag}", f"<atem:{tag}").replace(
            f"</{tag}", f"</atem:{tag}"
        )
    return text


def dsml(*calls):
    text = minimax(*calls).replace("minimax:tool_call", "｜DSML｜function_calls")
    for tag in ("invoke", "parameter"):
        text = text.replace(f"<{tag}", f"<｜DSML｜{tag}")
        text = text.replace(f"</{tag}", f"</｜DSML｜{tag}")
    for _, _, arguments in calls:
        for key, value in arguments.items():
            is_string = "true" if isinstance(value, str) else "false"
            text = text.replace(f'name="{key}"', f'name="{key}" string="{is_string}"')
    return text


def minicpm(*calls):
    def value(text):
        wraps = any(char in text for char in "<&\n")
        return f"<![CDATA[{text}]]>" if wraps else text

    return "\n".join(
        f'<function name="{name}">'
        + "".join(
            f'<param name="{key}">{value(plain(one))}</param>'
            for key, one in arguments.items()
        )
        + "</function>"
        for _, name, arguments in calls
    )


def kimi_k3(*calls):
    return (
        "<|open|>tools<|sep|>"
        + "".join(
            f'<|open|>call tool="{name}" index="1"<|sep|>'
            + "".join(
                f'<|open|>argument key="{key}" '
                f'type="{"string" if isinstance(value, str) else "object"}"<|sep|>'
                f"{plain(value)}<|close|>argument<|sep|>"
                for key, value in arguments.items()
            )
            + "<|close|>call<|sep|>"
            for _, name, arguments in calls
        )
        + "<|close|>tools<|sep|>"
    )


def braces(value):
    """A value in Gemma's way."""
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{braces(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(braces, value)) + "]"
    return written(value)


def gemma(*calls):
    return "".join(
        f"<|tool_call>call:{name}{braces(arguments)}<tool_call|>"
        for _, name, arguments in calls
    )


def kimi(*calls):
    return (
        "<|tool_calls_section_begin|>"
        + "".join(
            f"<|tool_call_begin|>{id}<|tool_call_argument_begin|>{written(arguments)}"
            "<|tool_call_end|>"
            for id, _, arguments in calls
        )
        + "<|tool_calls_section_end|>"
    )


def deepseek(*calls, fence=False):
    head = "function<｜tool▁sep｜>{}\n```json\n" if fence else "{}<｜tool▁sep｜>"
    tail = "\n```" if fence else ""
    return (
        "<｜tool▁calls▁begin｜>"
        + "\n".join(
            f"<｜tool▁call▁begin｜>{head.format(name)}{written(arguments)}{tail}"
            "<｜tool▁call▁end｜>"
            for _, name, arguments in calls
        )
        + "<｜tool▁calls▁end｜>"
    )


def lfm2(*calls, value=repr):
    return (
        "<|tool_call_start|>["
        + ", ".join(
            f"{name}({', '.join(f'{k}={value(v)}' for k, v in arguments.items())})"
            for _, name, arguments in calls
        )
        + "]<|tool_call_end|>"
    )


def llama(*calls):
    return "; ".join(
        f'{{"name": "{name}", "parameters": {written(arguments)}}}'
        for _, name, arguments in calls
    )


def numbered(*calls):
    return [(f"functions.{c[1]}:{i}", *c[1:]) for i, c in enumerate(calls)]


def harmony(name, arguments, header, end="<|call|>"):
    return header.format(f"functions.{name}") + written(arguments) + end


CHANNEL = "<|channel|>commentary to={} <|constrain|>json<|message|>"
PLAIN_CHANNEL = "<|channel|>commentary to={}<|message|>"
ROLE = " to={}<|channel|>commentary <|constrain|>json<|message|>"
