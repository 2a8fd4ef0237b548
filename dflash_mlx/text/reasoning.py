"""Reasoning and answer told apart, while the text comes.

Knows markers and text; nothing of models, tokens or terminals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .stream import overlap

Kind = Literal["reasoning", "answer"]
# Where a text is. "start": an answer whose first word has not come, so that reasoning
# may open; later an opening marker is what the answer talks about. "header": between
# two messages, where the text names the next one and is not shown.
State = Literal["start", "header", "reasoning", "answer"]
# A header that runs longer is no header.
LONGEST_HEADER = 200
# Tags that models of these vocabularies write, beside those that mlx-lm knows.
MORE_TAGS = (("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
# The end of a prompt that may have opened the reasoning, in tokens.
TAIL = 64


class Edge(NamedTuple):
    """A marker, where the text is after it, and whether the marker is text itself."""

    marker: str
    state: State
    keep: bool = False


@dataclass(frozen=True)
class Markers:
    """How a model writes that it reasons.

    Args:
        edges: For a state, the markers that leave it.
        first: The state of an answer that the prompt has not begun.
    """

    edges: Mapping[State, Sequence[Edge]] = field(default_factory=dict)
    first: State = "answer"

    def state_after(self, prompt: str, go_on: bool = False) -> State:
        """Where an answer begins.

        Args:
            prompt: The end of the prompt, with its markers.
            go_on: The prompt ends with the beginning of the answer; otherwise words
                after the last marker are the user's.
        """
        best = (0, 0, self.first)
        for edge in {edge for edges in self.edges.values() for edge in edges}:
            if (at := prompt.rfind(edge.marker)) >= 0:
                end = at + len(edge.marker)
                best = max(best, (end, len(edge.marker), edge.state))
        if prompt[best[0] :].strip() and not go_on:
            return self.first
        return best[2]


def tags(start: str, end: str, drop: Sequence[str] = ()) -> Markers:
    """Markers of reasoning between two tags, ahead of the answer.

    Args:
        start, end: The tags.
        drop: Further markers that are no text.
    """
    dropped = [Edge(marker, "answer") for marker in drop]
    return Markers(
        {
            "start": [Edge(start, "reasoning"), *dropped],
            "reasoning": [Edge(end, "start")],
            "answer": dropped,
        },
        "start",
    )


# gpt-oss: <|channel|>analysis<|message|> ... <|end|><|start|>assistant<|channel|>final
# <|message|> ...; other channels, a tool's among them, are answers.
HARMONY = Markers(
    {
        "header": [
            Edge("<|channel|>analysis<|message|>", "reasoning"),
            Edge("<|message|>", "answer"),
        ],
        "reasoning": [Edge("<|end|>", "header"), Edge("<|start|>", "header")],
        "answer": [Edge("<|end|>", "header")],
    },
    "header",
)


def markers(tokenizer: Any) -> Markers:
    """How a tokenizer's model marks its reasoning; no markers if it does not.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
    """
    if tokenizer.response_transitions:
        return _of_format(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if all(word in vocabulary for word in ("<|channel|>", "<|message|>", "<|start|>")):
        return HARMONY
    if tokenizer.has_thinking:
        start, end = tokenizer.think_start, tokenizer.think_end
        return tags(start, end, tokenizer.structural_markers)
    for start, end in MORE_TAGS:
        if start in vocabulary and end in vocabulary:
            return tags(start, end)
    template = tokenizer.chat_template
    if isinstance(template, str) and "<think>" in template and "</think>" in template:
        return tags("<think>", "</think>")
    return Markers()


def _of_format(tokenizer):
    """mlx-lm's description of a response as Markers; tool calls stay in the answer."""
    states = {"normal": "answer", "tool": "answer"}
    edges: dict[State, list[Edge]] = {}
    for state, ways in tokenizer.response_transitions.items():
        edges[states.get(state, state)] = [
            Edge(marker, states.get(to, to), keep=to == "tool") for marker, to in ways
        ]
    first = tokenizer.response_initial_state or "normal"
    return Markers(edges, states.get(first, first))


def splitter(tokenizer: Any, prompt: Sequence[int] = (), go_on: bool = False):
    """A Splitter for the answer to a prompt.

    Args:
        tokenizer: mlx-lm's TokenizerWrapper.
        prompt: Token ids, of which the end is read.
        go_on: The prompt ends with the beginning of the answer.
    """
    found = markers(tokenizer)
    tail = list(prompt) if go_on else list(prompt)[-TAIL:]
    return Splitter(found, found.state_after(tokenizer.decode(tail), go_on))


class Splitter:
    """Text in pieces, cut anywhere; (kind, text) out, as soon as it is certain.

    Markers are taken out, and the line ends after a marker. Whatever else came is
    given back, also when an end never comes.

    Args:
        markers: The model's.
        state: Where the answer begins; None for an answer that nobody has begun.
    """

    def __init__(self, markers: Markers, state: State | None = None):
        self._edges = markers.edges
        self.state: State = state or markers.first
        self._held = ""
        self._after_marker = self.state == "reasoning"
        self._in_message = False

    def push(self, text: str) -> list[tuple[Kind, str]]:
        """Add a piece; what is certain now."""
        self._held += text
        out: list[tuple[Kind, str]] = []
        while (step := self._step()) is not None:
            out.extend(step)
        return out

    def close(self) -> list[tuple[Kind, str]]:
        """What was held back when the text ends."""
        text, self._held = self._held, ""
        if self.state == "header" and self._in_message:
            return []
        return self._give(text)

    def _step(self):
        """Go on to the next marker; None when more text must come first."""
        text, edges = self._held, self._edges.get(self.state, ())
        if self.state == "start":
            return self._begin(text, edges)
        found = [(at, e) for e in edges if (at := text.find(e.marker)) >= 0]
        if found:
            at, edge = min(found, key=lambda one: (one[0], -len(one[1].marker)))
            return self._cross(text[:at], edge, text[at + len(edge.marker) :])
        if self.state == "header":
            if len(text) <= LONGEST_HEADER:
                return None
            self.state = "answer"
            return []
        keep = max((overlap(text, edge.marker) for edge in edges), default=0)
        self._held = text[len(text) - keep :]
        given = self._give(text[: len(text) - keep])
        return given or None

    def _begin(self, text, edges):
        """The first word decides whether reasoning opens."""
        word = text.lstrip()
        for edge in edges:
            if word.startswith(edge.marker):
                return self._cross("", edge, word[len(edge.marker) :])
        if any(edge.marker.startswith(word) for edge in edges):
            return None
        self.state = "answer"
        return []

    def _cross(self, before, edge, after):
        given = [] if self.state == "header" else self._give(before)
        self._held = edge.marker + after if edge.keep else after
        self.state, self._after_marker = edge.state, not edge.keep
        self._in_message = True
        return given

    def _give(self, text):
        if self._after_marker:
            text = text.lstrip("\r\n")
        if not text:
            return []
        self._after_marker = False
        return [("reasoning" if self.state == "reasoning" else "answer", text)]
