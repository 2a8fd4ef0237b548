"""Readers of calls that name the tool before a JSON object of arguments.

Sections with a marker for each part (Kimi K2, DeepSeek), Mistral's name[ARGS], and
messages to a recipient (harmony).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .cursor import Steps
from .events import BrokenCall, NotACall
from .json_calls import read_list
from .session import Session

KIMI_ID = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?")
HEADER = re.compile(
    r"(<\|start\|>)?\w*\s*(to=[^\s<]+)?(<\|channel\|>\w+\s*(to=[^\s<]+)?)?"
    r"\s*(<\|constrain\|>)?(json|code)?\s*"
)
RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
NAME = re.compile(r"[\w.:/-]*")
LONGEST_NAME = 256
CALL, MESSAGE = "<|call|>", "<|message|>"


@dataclass(frozen=True)
class Section:
    """The markers of calls that come in a section.

    Args:
        start, end: Around all calls.
        call, call_end: Around one call.
        arguments: Between its name and its arguments.
    """

    start: str
    end: str
    call: str
    call_end: str
    arguments: str

    def read(self, session: Session, marker: str) -> Steps[None]:
        """Read a section, or calls without one."""
        cursor = session.cursor
        if marker == self.start:
            yield from cursor.skip_space()
            yield from session.expect(self.call)
        while True:
            yield from self._read_call(session)
            found = yield from cursor.follows(0, (self.call, self.end))
            if found != self.call:
                break
            yield from cursor.skip_space()
            cursor.mark()
            cursor.take(len(self.call))
        if found == self.end or marker == self.start:
            yield from session.rest_of_block(self.end)

    def _read_call(self, session):
        head, _ = yield from session.head((self.arguments,))
        head, fence = head.strip(), False
        if head == "function" and head not in session.tools:  # DeepSeek V3
            head, _ = yield from session.head(("\n",))
            fence = True
        name = head if head in session.tools else KIMI_ID.fullmatch(head)
        if not name:
            raise BrokenCall("the call has no name")
        is_id = not isinstance(name, str) and name[0] != name[1]
        session.start(name if isinstance(name, str) else name[1], head if is_id else "")
        yield from session.cursor.skip_space()
        fence = fence and (yield from session.cursor.starts(("{",))) is None
        if fence:
            yield from session.expect("```json")
        yield from read_arguments(session, (self.call_end,))
        if fence:
            yield from session.cursor.skip_space()
            yield from session.expect("```")
        yield from session.end_of_call((self.call_end,))


def read_arguments(session: Session, empty: tuple[str, ...] = ()) -> Steps[None]:
    """Read the arguments of the open call.

    Args:
        session: At the object, or at spaces before it.
        empty: Markers that may stand here if there are no arguments, like the end of a
            text that max_tokens did not end.
    """
    cursor = session.cursor
    yield from cursor.skip_space()
    at_end = (yield from cursor.peek()) == "" and not session.truncated
    if at_end or empty and (yield from cursor.starts(empty)):
        session.write("{}")
        return
    if (yield from cursor.need()) != "{":
        raise BrokenCall("the arguments are no JSON object")
    yield from session.reader().value()


KIMI = Section(
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
)
DEEPSEEK = Section(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
)


def read_mistral(session: Session, marker: str) -> Steps[None]:
    """Read [TOOL_CALLS] with a list of objects, or with name[ARGS]{...} calls."""
    cursor = session.cursor
    yield from cursor.skip_space()
    if (yield from cursor.starts(("[",))):
        yield from read_list(session)
        return
    while True:
        head, found = yield from session.head(("[ARGS]", "[CALL_ID]"))
        id = ""
        if found == "[CALL_ID]":
            id, _ = yield from session.head(("[ARGS]",))
        session.start(head, id.strip())
        yield from read_arguments(session)
        session.end()
        offset = yield from cursor.space_after(0)
        length = yield from _name_length(session, offset)
        markers = ("[ARGS]", "[CALL_ID]")
        if not length or not (yield from cursor.starts(markers, offset + length)):
            return
        cursor.mark()


def _name_length(session, offset):
    """The length of the name at an offset."""
    cursor = session.cursor
    while True:
        found = NAME.match(cursor.text, cursor.at + offset)
        length = found.end() - found.start() if found else 0
        if length > LONGEST_NAME:
            return 0
        if cursor.ended or (found and found.end() < len(cursor.text)):
            return length
        yield


def read_harmony(session: Session, marker: str) -> Steps[None]:
    """Read a message to a tool: a header that names it, and its arguments.

    The recipient stands before the channel or behind it.
    """
    try:
        head, _ = yield from session.head((MESSAGE,))
    except BrokenCall:
        raise NotACall from None
    recipient = RECIPIENT.search(marker + head)
    if not recipient:
        raise NotACall
    session.start(recipient[1])
    if not HEADER.fullmatch(marker + head):
        session.warn(f"the header of the message is unusual: {marker + head}")
    yield from read_arguments(session, (CALL, "<|end|>", "<|start|>"))
    yield from session.end_of_call((CALL, "<|end|>"))
