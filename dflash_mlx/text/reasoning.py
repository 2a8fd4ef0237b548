"""Separates a model's reasoning from its answer while the text is generated.

Owns the markers of each family of models. A tool call is part of the answer, with the
header that names the tool (see text/tool_calls). Does not know how the two are shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .stream import overlap
from .tool_calls import find_format

if TYPE_CHECKING:
    from .grammar import Grammar

Kind = Literal["reasoning", "answer"]
# Where a text is. "start": before the first word of the answer, where reasoning may
# begin; after that word an opening marker is part of the answer. "header": between two
# messages, where the text names the next one and is dropped, unless that is a call.
State = Literal["start", "header", "reasoning", "answer", "call"]
# In characters. A longer text is not a header, but an answer.
LONGEST_HEADER = 200
# In a header: the message is for a tool.
RECIPIENT = re.compile(r"(?:^|\s)to=(?!user\b|assistant\b)[^\s<]")
# Pairs of tags that mlx-lm does not know, used if the vocabulary has both.
MORE_TAGS = (("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
# Tokens at the end of a prompt in which a template may open the reasoning.
TAIL = 64


class Edge(NamedTuple):
    """A marker that leads from one state to another.

    Args:
        marker: The text.
        state: The state after it.
        keep: Whether the marker is part of the text after it and not dropped.
        ends: Whether the marker is part of the text before it and not dropped.
    """

    marker: str
    state: State
    keep: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Markers:
    """How a model marks its reasoning.

    Args:
        edges: State -> the markers that end it.
        first: The state at the beginning of an answer.
        recipients: Whether a header may name a tool that the message is for. Such a
            header is part of the answer, and the state after it is "call".
    """

    edges: Mapping[State, Sequence[Edge]] = field(default_factory=dict)
    first: State = "answer"
    recipients: bool = False

    def state_after(self, prompt: str, continue_final_message: bool = False) -> State:
        """The state in which an answer begins after a prompt.

        Args:
            prompt: The end of the prompt, with its markers.
            continue_final_message: The prompt ends with the beginning of the answer.
                Otherwise words after the last marker are the user's.
        """
        best = (0, 0, self.first)
        for edge in {edge for edges in self.edges.values() for edge in edges}:
            if (at := prompt.rfind(edge.marker)) >= 0:
                end = at + len(edge.marker)
                best = max(best, (end, len(edge.marker), edge.state))
        if prompt[best[0] :].strip() and not continue_final_message:
            return self.first
        return best[2]


def tag_markers(
    start: str, end: str, drop: Sequence[str] = (), calls: Sequence[str] = ()
) -> Markers:
    """Markers for reasoning between two tags before the answer.

    Args:
        start, end: The tags.
        drop: Further markers, to be dropped from the text.
        calls: Markers of tool calls, which end the reasoning like its tag.
    """
    dropped = [Edge(marker, "answer") for marker in drop]
    opened = [Edge(marker, "answer", keep=True) for marker in calls]
    return Markers(
        {
            "start": [Edge(start, "reasoning"), *dropped],
            "reasoning": [Edge(end, "start"), *opened],
            "answer": dropped,
        },
        "start",
    )


# gpt-oss: <|channel|>analysis<|message|> ... <|end|><|start|>assistant<|channel|>final
# <|message|> ... A message for a tool names it before the channel or behind it, as in
# <|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>.
NEXT = [Edge("<|end|>", "header"), Edge("<|start|>", "header", keep=True)]
HARMONY = Markers(
    {
        "header": [
            Edge("<|channel|>analysis<|message|>", "reasoning"),
            Edge("<|message|>", "answer"),
        ],
        "reasoning": NEXT,
        "answer": NEXT,
        "call": [Edge("<|call|>", "header", ends=True), *NEXT],
    },
    "header",
    recipients=True,
)

# The marker before the answer of gpt-oss. Other messages may be calls.
FINAL = "<|channel|>final<|message|>"


def find_markers(tokenizer: Any) -> Markers:
    """The markers of a tokenizer's model; none if it does not mark its reasoning.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
    """
    if tokenizer.response_transitions:
        return _from_transitions(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if all(word in vocabulary for word in ("<|channel|>", "<|message|>", "<|start|>")):
        return HARMONY
    format = find_format(tokenizer)
    calls = format.in_reasoning if format else ()
    if tokenizer.has_thinking:
        start, end = tokenizer.think_start, tokenizer.think_end
        return tag_markers(start, end, tokenizer.structural_markers, calls)
    for start, end in MORE_TAGS:
        if start in vocabulary and end in vocabulary:
            return tag_markers(start, end, calls=calls)
    template = tokenizer.chat_template
    if isinstance(template, str) and "<think>" in template and "</think>" in template:
        return tag_markers("<think>", "</think>", calls=calls)
    return Markers()


def _from_transitions(tokenizer):
    """Markers from mlx-lm's description of a response; tool calls are answers."""
    states = {"normal": "answer", "tool": "answer"}
    edges: dict[State, list[Edge]] = {}
    for state, ways in tokenizer.response_transitions.items():
        edges[states.get(state, state)] = [
            Edge(marker, states.get(to, to), keep=to == "tool") for marker, to in ways
        ]
    first = tokenizer.response_initial_state or "normal"
    return Markers(edges, states.get(first, first))


def make_splitter(
    tokenizer: Any, prompt: Sequence[int] = (), continue_final_message: bool = False
) -> Splitter:
    """Make a Splitter for the answer to a prompt.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        prompt: Token ids.
        continue_final_message: The prompt ends with the beginning of the answer.
    """
    markers = find_markers(tokenizer)
    tail = list(prompt) if continue_final_message else list(prompt)[-TAIL:]
    text = tokenizer.decode(tail)
    return Splitter(markers, markers.state_after(text, continue_final_message))


def behind_reasoning(
    grammar: Grammar, tokenizer: Any, prompt: Sequence[int]
) -> Grammar:
    """A grammar for the answer that follows the reasoning, if the model reasons.

    Args:
        grammar: Of the answer.
        tokenizer: mlx-lm's TokenizerWrapper.
        prompt: Token ids. Where its end closes the reasoning, there is none.
    """
    markers = find_markers(tokenizer)
    text = tokenizer.decode(list(prompt)[-TAIL:])
    state = markers.state_after(text)
    # Markers that are kept open a call inside the reasoning.
    edges = markers.edges.get("reasoning", ())
    ends = [edge.marker for edge in edges if not edge.keep]
    headers = markers.edges.get("header", ())
    starts = [e.marker for e in headers if e.state == "answer" and not e.keep]
    starts = [FINAL] if markers is HARMONY else starts
    if state == "header" or (state == "reasoning" and starts):
        return grammar.after(*starts)
    if state == "reasoning":
        return grammar.after(*ends)
    if state == "answer" or text.rstrip().endswith(tuple(ends)):
        return grammar
    # The model may open its reasoning itself, or answer at once.
    opening = next(e.marker for e in markers.edges["start"] if e.state == "reasoning")
    if grammar.vocabulary.token_of(opening) is None:
        return grammar
    return grammar.after(*ends, opening=opening)


class Splitter:
    """Labels pieces of a text as reasoning or answer.

    The pieces may be cut anywhere. Markers and the line breaks after them are dropped;
    all other text is returned as soon as its kind is certain, even if a closing marker
    is missing.

    Args:
        markers: The model's.
        state: The state at the beginning; None for the markers' first one.
    """

    def __init__(self, markers: Markers, state: State | None = None):
        self._edges, self._recipients = markers.edges, markers.recipients
        self.state: State = state or markers.first
        self._held = ""
        self._after_marker = self.state == "reasoning"
        self._in_message = False

    def push(self, text: str) -> list[tuple[Kind, str]]:
        """Add a piece; return (kind, text) pairs of what is certain now."""
        self._held += text
        out: list[tuple[Kind, str]] = []
        while (step := self._step()) is not None:
            out.extend(step)
        return out

    def close(self) -> list[tuple[Kind, str]]:
        """End the text; return what was held back."""
        text, self._held = self._held, ""
        if self.state == "header" and self._in_message and not self._is_call(text):
            return []
        return self._label(text)

    def _is_call(self, header):
        """Whether a header says that its message is for a tool."""
        return self._recipients and RECIPIENT.search(header) is not None

    def _step(self):
        """Process the text up to the next marker; None if more text must come first."""
        text, edges = self._held, self._edges.get(self.state, ())
        if self.state == "start":
            return self._start(text, edges)
        limit = LONGEST_HEADER + 1 if self.state == "header" else None
        found = [(at, e) for e in edges if (at := text.find(e.marker, 0, limit)) >= 0]
        if found:
            at, edge = min(found, key=lambda one: (one[0], -len(one[1].marker)))
            return self._cross(text[:at], edge, text[at + len(edge.marker) :])
        if self.state == "header":
            if len(text) <= LONGEST_HEADER:
                return None
            return self._no_header(text)
        keep = max((overlap(text, edge.marker) for edge in edges), default=0)
        self._held = text[len(text) - keep :]
        return self._label(text[: len(text) - keep]) or None

    def _no_header(self, text):
        """Take a text that is too long for a header for an answer."""
        self.state = "answer"
        for edge in self._edges.get("answer", ()):
            if text.startswith(edge.marker):  # which would lead here again
                self._held = text[len(edge.marker) :]
                return self._label(edge.marker)
        return []

    def _start(self, text, edges):
        """The first word decides whether reasoning begins."""
        word = text.lstrip()
        for edge in edges:
            if word.startswith(edge.marker):
                return self._cross("", edge, word[len(edge.marker) :])
        if any(edge.marker.startswith(word) for edge in edges):
            return None
        self.state = "answer"
        return []

    def _cross(self, before, edge, after):
        """Pass a marker that lies between two pieces of text."""
        if self.state == "header":
            if self._is_call(before + edge.marker):
                self.state, self._held, self._in_message = "call", after, True
                return [("answer", before + edge.marker)]
            parts = []
        else:
            parts = self._label(before + edge.marker if edge.ends else before)
        self._held = edge.marker + after if edge.keep else after
        self.state, self._after_marker = edge.state, not edge.keep
        self._in_message = True
        return parts

    def _label(self, text):
        if self._after_marker:
            text = text.lstrip("\r\n")
        if not text:
            return []
        self._after_marker = False
        return [("reasoning" if self.state == "reasoning" else "answer", text)]
