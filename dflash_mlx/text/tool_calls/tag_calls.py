"""Readers of calls whose arguments stand between tags, as text without quotes.

<function=NAME><parameter=KEY>VALUE</parameter></function> (Qwen3-Coder, Qwen3.5), and
others with the same parts. The types of values come from the tool's schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .cursor import Steps
from .events import BrokenCall, NotACall, UnfinishedCall
from .json_calls import read_json_block
from .schema import ANY, NOT_STRING, STRING, Kind, convert
from .session import Session
from .values import quoted

CDATA, CDATA_END = "<![CDATA[", "]]>"
# name="x" and the like in the head of a tag. Without any, the head is the name.
ATTRIBUTE = re.compile(r"""(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
NAME_ATTRIBUTES = ("name", "tool", "key")
# Types of values in which the text of a tag may stand.
LONG_TYPES = {"string", "object", "array"}
PLAIN_NAME = re.compile(r"[^\s<>\"'=]+")


@dataclass(frozen=True)
class Tags:
    """The tags of a format.

    Args:
        block, block_end: Around all calls; "" if there are none.
        call, call_end: Around a call. `call` is "" if the block holds one call and
            begins with its name.
        key, value_end: Around a parameter.
        head_end: What ends the head of a call or parameter, with its name.
        value: What stands between the end of a key's head and its value.
        trimmed: Whether one line break on each side is no part of a value.
        cdata: Whether a value may be wrapped in <![CDATA[...]]>.
        json: Whether a block or a call may hold JSON instead.
    """

    call: str
    call_end: str
    key: str
    value_end: str
    block: str = ""
    block_end: str = ""
    head_end: str = ">"
    value: str = ""
    trimmed: bool = False
    cdata: bool = False
    json: bool = False

    @property
    def opening(self) -> tuple[str, ...]:
        """The markers that open a call."""
        return tuple(filter(None, (self.block, self.call)))

    def read(self, session: Session, marker: str) -> Steps[None]:
        """Read a block, or calls without one."""
        yield from _Block(self, session, in_block=marker == self.block).read()


class _Block:
    """Reads the calls of one block.

    Args:
        tags: The format.
        session: Behind the marker that opens a block or a call.
        in_block: Whether the marker opened a block.
    """

    def __init__(self, tags: Tags, session: Session, in_block: bool):
        self._tags, self._session, self._in_block = tags, session, in_block
        self._cursor = session.cursor
        # What may follow a value, and what may follow a call.
        self._after_value = _some(tags.key, tags.call_end, tags.block_end)
        self._after_call = _some(tags.block_end, tags.call, tags.block)

    def read(self) -> Steps[None]:
        tags, cursor = self._tags, self._cursor
        if self._in_block:
            yield from cursor.skip_space()
            if tags.json and (yield from cursor.starts(("{", "["))):
                closing = tags.block_end or tags.call_end
                yield from read_json_block(self._session, closing)
                return
            if tags.call:
                yield from self._session.expect(tags.call)
        while True:
            yield from self._call()
            if not (yield from self._another()):
                return

    def _another(self):
        """Whether another call follows in this block; if so, its marker is read."""
        tags, cursor = self._tags, self._cursor
        if not tags.call:
            return False
        found = yield from cursor.follows(0, _some(tags.block_end, tags.call))
        if found:
            yield from cursor.skip_space()
            if found == tags.block_end:
                cursor.take(len(found))
        elif self._in_block and found is None:
            inner = (tags.call,)
            found = yield from self._session.rest_of_block(tags.block_end, inner)
        if found != tags.call:
            return False
        cursor.mark()
        cursor.take(len(found))
        return True

    def _call(self):
        """Read one call from its name on."""
        session, tags = self._session, self._tags
        head, found = yield from self._call_head()
        name = _attributes(head).get("", "")
        if not name:
            if not self._in_block:
                raise NotACall
            session.cursor.at -= len(found or "")  # it may close the broken call
            raise BrokenCall("the call has no name")
        if not self._in_block and (yield from self._is_mention()):
            raise NotACall
        session.start(name)
        seen: list[str] = []
        while True:
            if found is None:
                found = yield from self._next_part(bool(seen))
            if found == tags.key:
                yield from self._parameter(seen)
            elif found == "{":
                yield from session.reader().value()
                yield from session.end_of_call((tags.call_end,))
                return
            else:
                session.write("}" if seen else "{}")
                session.end()
                return
            found = None

    def _call_head(self):
        """Read the head of a call; return it and the part that ended it, if any."""
        session, tags = self._session, self._tags
        if tags.call:
            try:
                head, _ = yield from session.head((tags.head_end,))
            except BrokenCall:
                if not self._in_block:
                    raise NotACall from None
                raise
            return head, None
        head, found = yield from session.head((tags.key, tags.call_end))
        return head, found

    def _is_mention(self):
        """Whether text follows the head of a call, so that it is part of a text."""
        parts = (*self._after_value, *self._after_call, "{")
        return (yield from self._cursor.follows(0, parts)) is None

    def _next_part(self, has_arguments):
        """Read the marker of what comes next in a call: a key, its end, or JSON."""
        session, tags, cursor = self._session, self._tags, self._cursor
        yield from cursor.skip_space()
        parts = (*self._after_value, *self._after_call)
        found = yield from cursor.starts((*parts, "{"))
        if found in (tags.key, tags.call_end):
            cursor.take(len(found))
        elif found == "{" and tags.json and not has_arguments:
            pass
        elif found and found != "{":
            session.warn(f"{tags.call_end!r} is missing")
        elif found is None and cursor.is_cut(parts):
            is_end = cursor.at == len(cursor.text)
            if session.truncated or not (has_arguments and is_end):
                raise UnfinishedCall
            session.warn(f"{tags.call_end!r} is missing")
        else:
            char = yield from cursor.need()
            raise BrokenCall(f"a parameter was expected, not {char!r}")
        return found

    def _parameter(self, seen):
        """Read a parameter behind its marker, and write it."""
        session, tags, cursor = self._session, self._tags, self._cursor
        head, _ = yield from session.head((tags.head_end,))
        attributes = _attributes(head)
        key = attributes.get("", "")
        if not key:
            raise BrokenCall("a parameter has no name")
        if tags.value:
            yield from cursor.skip_space()
            yield from session.expect(tags.value)
        if key in seen:
            session.warn(f"the parameter {key!r} stands there twice")
        session.write(f"{', ' if seen else '{'}{quoted(key)}: ")
        seen.append(key)
        kind = _stated(attributes) or session.tool().kind(key)
        if kind.is_string:
            session.write('"')
            yield from self._value(lambda text: session.write(quoted(text)[1:-1]))
            session.write('"')
            return
        parts: list[str] = []
        if kind.types.isdisjoint(LONG_TYPES):
            yield from self._word(parts.append)
        else:
            yield from self._value(parts.append)
        text = "".join(parts)
        session.write(
            convert(text, kind, lambda what: session.warn(f"parameter {key!r}: {what}"))
        )

    def _word(self, out):
        """Read a value in which no tag can stand, and the tag that ends it."""
        tags = self._tags
        text = _Trimmed(out) if tags.trimmed else out
        found = yield from self._cursor.until((tags.value_end, tags.call_end), text)
        if found is None:
            raise UnfinishedCall
        if found == tags.value_end:
            self._cursor.take(len(found))
        else:
            self._session.warn(f"{tags.value_end!r} is missing")

    def _value(self, out):
        """Read a value and the tag that ends it."""
        tags, cursor = self._tags, self._cursor
        if tags.cdata and (yield from cursor.follows(0, (CDATA,))):
            yield from cursor.skip_space()
            cursor.take(len(CDATA))
            yield from self._text((CDATA_END,), out)
            yield from cursor.skip_space()
            yield from self._session.expect(tags.value_end)
            return
        text = _Trimmed(out) if tags.trimmed else out
        yield from self._text((tags.value_end, tags.call_end), text)

    def _text(self, markers, out):
        """Read up to the first marker that ends the value, which is read if it is the
        first one of the markers."""
        session, cursor = self._session, self._cursor
        while True:
            found = yield from cursor.until(markers, out)
            if found is None:
                raise UnfinishedCall
            own = found == markers[0]
            after = self._after_value if own else self._after_call
            if found == CDATA_END:
                after = (self._tags.value_end,)
            follows = yield from cursor.follows(len(found), after)
            if follows == "" and session.truncated:
                follows = None
            if follows is None and cursor.is_cut(after, len(found)):
                raise UnfinishedCall
            if follows is None:
                out(cursor.take(len(found)))
                continue
            if own:
                cursor.take(len(found))
            else:
                session.warn(f"{markers[0]!r} is missing")
            return


class _Trimmed:
    """Drops one line break at the beginning of a text and one at its end."""

    def __init__(self, out: Callable[[str], None]):
        self._out, self._begun, self._held = out, False, ""

    def __call__(self, text: str) -> None:
        text = self._held + text
        if not self._begun:
            self._begun = True
            text = text.removeprefix("\n")
        self._held = "\n" if text.endswith("\n") else ""
        if kept := text.removesuffix("\n"):
            self._out(kept)


def _some(*markers):
    return tuple(filter(None, markers))


def _attributes(head):
    """The attributes of a tag's head, with the name under ""."""
    found = {key: one or other for key, one, other in ATTRIBUTE.findall(head)}
    if found:
        names = [found[key] for key in NAME_ATTRIBUTES if key in found]
        is_whole = not ATTRIBUTE.sub("", head).strip()
        return {**found, "": names[0]} if names and is_whole else found
    plain = head.strip().strip("\"'").removesuffix("/").strip()
    return {"": plain} if PLAIN_NAME.fullmatch(plain) else {}


def _stated(attributes) -> Kind | None:
    """The kind that a tag states for its value."""
    if "string" in attributes:
        return STRING if attributes["string"] == "true" else NOT_STRING
    if "type" in attributes:
        return STRING if attributes["type"] == "string" else ANY
    return None
