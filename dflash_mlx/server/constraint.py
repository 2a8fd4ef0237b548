"""The grammar of a constrained answer, and of calls that must fit their tools.

Owns how a schema and calls go together. Where the grammar begins behind reasoning is in
text/reasoning.py. Does not know requests' JSON or models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import GrammarError
from ..text.grammar import Grammar
from ..text.tool_calls import ToolFormat
from ..text.tool_calls.formats import HARMONY as HARMONY_CALLS
from ..text.vocabulary import Vocabulary
from .errors import RequestError, unsupported
from .schema import Constraint, ToolChoice

# The reasoning of a harmony answer, if it has any, in llguidance's Lark.
ANALYSIS = """
analysis: <|channel|> "analysis" <|message|> /(?s:.*)/ <|end|> <|start|> "assistant"
"""
# What Lark reads otherwise than a regular expression does, and what is escaped already.
IN_REGEX = re.compile(r"\\.|[/\n]", re.DOTALL)
ANY_CHOICE = ToolChoice()


def make_grammar(
    tokenizer: Any,
    constraint: Constraint | None,
    choice: ToolChoice = ANY_CHOICE,
    tools: Sequence[Mapping[str, Any]] = (),
    format: ToolFormat | None = None,
) -> Grammar | None:
    """The grammar of an answer without its reasoning.

    With tools that may be called, a constrained answer is either what the constraint
    says or a call. Without a constraint, calls are constrained if one must be made, or
    if a tool is strict.

    Args:
        tokenizer: The model's.
        constraint: What the text must match, or None.
        choice: Whether tools must be called.
        tools: Those that are offered.
        format: How the model writes calls; None without tools.

    Returns:
        The grammar; None for a free answer.

    Raises:
        RequestError: It cannot be had; the keyword at fault is named.
    """
    text, param = None, "response_format"
    strict = any(tool["function"].get("strict") for tool in tools)
    if format is not None and choice.mode == "required":
        text, param = call_grammar(tokenizer, tools, format, choice), "tool_choice"
    elif format is not None and constraint is None and strict:
        text, param = call_grammar(tokenizer, tools, format, choice, True), "tools"
    elif format not in (None, HARMONY_CALLS) and constraint is not None:
        text = either(constraint, call_grammar(tokenizer, tools, format, choice))
    try:
        if text is None:
            return constraint and constraint_grammar(tokenizer, constraint)
        grammar = Grammar.of_lark(tokenizer, text)
        return grammar.after(*format.triggers) if param == "tools" else grammar
    except GrammarError as error:
        if constraint is not None and "json" not in constraint.kind:
            param = "structured_outputs"
        message = str(error)
        raise RequestError(message, code="invalid_grammar", param=param) from None


def constraint_grammar(tokenizer: Any, constraint: Constraint) -> Grammar:
    """The grammar of a constraint.

    Raises:
        GrammarError: It cannot be had.
    """
    value = constraint.value
    match constraint.kind:
        case "json_object":
            return Grammar.of_json_object(tokenizer)
        case "json_schema":
            return Grammar.of_json_schema(tokenizer, value, strict=constraint.strict)
        case "regex":
            return Grammar.of_regex(tokenizer, value)
        case "lark":
            return Grammar.of_lark(tokenizer, value)


def call_grammar(
    tokenizer: Any,
    tools: Sequence[Mapping[str, Any]],
    format: ToolFormat,
    choice: ToolChoice,
    opened: bool = False,
) -> str:
    """The Lark grammar of calls.

    Args:
        opened: It begins behind a text that opens a call.

    Raises:
        RequestError: There is none for this format.
    """
    vocabulary, known = tokenizer.get_vocab(), Vocabulary.of(tokenizer).tokens
    special = [
        token
        for token in format.tokens
        if token in vocabulary and known.is_special_token(vocabulary[token])
    ]
    parallel = choice.parallel
    text = format.grammar(tools, parallel=parallel, opened=opened, special=special)
    if text is None:
        what = f"Calls in the format of this model ({format.name}) cannot be enforced:"
        raise unsupported(f"{what} tool_choice or strict", "tool_choice")
    analysis = {"<|start|>", "<|channel|>", "<|message|>"} <= set(special)
    if format is HARMONY_CALLS and analysis and not opened:
        return "start: analysis? " + text.removeprefix("start: ") + ANALYSIS
    return text


def lark_regex(pattern: str) -> str:
    """A regular expression in Lark."""
    names = {"/": r"\/", "\n": r"\n"}
    escaped = IN_REGEX.sub(lambda found: names.get(found[0], found[0]), pattern)
    return f"/{escaped}/"


def either(constraint: Constraint, calls: str) -> str | None:
    """The Lark grammar of an answer that matches a constraint or is calls; None for
    constraints that are Lark themselves, beside which no call is possible."""
    match constraint.kind:
        case "json_object":
            answer = '%json {"type": "object"}'
        case "json_schema":
            answer = f"%json {json.dumps(constraint.value)}"
        case "regex":
            answer = lark_regex(constraint.value)
        case _:
            return None
    calls = "calls: " + calls.removeprefix("start: ")
    return f"start: answer | calls\nanswer: {answer}\n{calls}"
