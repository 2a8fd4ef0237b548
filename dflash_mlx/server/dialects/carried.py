"""Reasoning that a client keeps for us between requests, in a field it does not read.

Owns the form of that field. Does not know which field a dialect uses.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

# Tells our own fields from those of other servers. The number is the form's version.
PREFIX = "dflash1:"


def pack_reasoning(text: str) -> str:
    """The field's value for a text. It is not encrypted."""
    return PREFIX + b64encode(text.encode()).decode()


def unpack_reasoning(value: object) -> str | None:
    """The text of a field; None if it is damaged or another server's."""
    if not isinstance(value, str) or not value.startswith(PREFIX):
        return None
    try:
        return b64decode(value.removeprefix(PREFIX), validate=True).decode()
    except ValueError:
        return None
