"""The grammar of a constrained answer, and where in the answer it begins.

Owns how reasoning and a grammar go together: the reasoning is free, and the grammar
begins behind it. Does not know requests' JSON or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import GrammarError
from ..text.grammar import Grammar
from ..text.reasoning import HARMONY, TAIL, Markers, find_markers
from .errors import RequestError
from .schema import Constraint

FINAL = ("<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>")


def make_grammar(tokenizer: Any, constraint: Constraint) -> Grammar:
    """The grammar of a constraint, from the first token on.

    Raises:
        RequestError: It cannot be had; the keyword at fault is named.
    """
    value = constraint.value
    try:
        match constraint.kind:
            case "json_object":
                return Grammar.of_json_object(tokenizer)
            case "json_schema":
                strict = constraint.strict
                return Grammar.of_json_schema(tokenizer, value, strict=strict)
            case "regex":
                return Grammar.of_regex(tokenizer, value)
            case "lark":
                return Grammar.of_lark(tokenizer, value)
    except GrammarError as error:
        param = "response_format" if "json" in constraint.kind else "structured_outputs"
        message = str(error)
        raise RequestError(message, code="invalid_grammar", param=param) from None


def behind_reasoning(
    tokenizer: Any, grammar: Grammar, prompt: Sequence[int], thinks: bool
) -> tuple[Grammar, list[int]]:
    """The grammar as it begins behind the reasoning, and tokens that open the latter.

    A model that writes the opening marker itself may also leave it out, and then no
    marker would tell where the answer begins. So the prompt opens its reasoning.

    Args:
        tokenizer: The model's.
        grammar: From the first token on.
        prompt: Token ids.
        thinks: Whether the model reasons first, if the prompt does not show it.

    Returns:
        The grammar, and tokens to add to the prompt; none where there is no reasoning,
        or the prompt has begun it.
    """
    markers = find_markers(tokenizer)
    if markers is HARMONY:
        return grammar.after(*FINAL), []
    tail = tokenizer.decode(list(prompt)[-TAIL:])
    state = markers.state_after(tail)
    if state == "reasoning":
        return grammar.after(*ends(markers)), []
    closed = any(tail.rstrip().endswith(end) for end in ends(markers))
    starts = [
        e.marker for e in markers.edges.get("start", ()) if e.state == "reasoning"
    ]
    if state != "start" or closed or not starts or not thinks:
        return grammar, []
    opening = tokenizer.encode(starts[0] + "\n", add_special_tokens=False)
    return grammar.after(*ends(markers)), list(opening)


def ends(markers: Markers) -> list[str]:
    """The markers that end the reasoning."""
    return [edge.marker for edge in markers.edges.get("reasoning", ())]
