"""Tool calls in the answers of models: one incremental parser for all formats.

    parser = make_parser(tokenizer, tools)
    for piece in answer:
        for event in parser.push(piece):
            ...
    parser.close()

Gets the text of the answer without the reasoning (see text/reasoning.py). Owns the
formats, and how arguments become JSON. Does not know requests or ids of calls other
than the model's own.
"""

from .events import (
    CallArguments,
    CallBroken,
    CallEnd,
    CallStart,
    Text,
    ToolEvent,
)
from .formats import ToolFormat, find_format
from .parser import ToolCallParser, make_parser

__all__ = [
    "CallArguments",
    "CallBroken",
    "CallEnd",
    "CallStart",
    "Text",
    "ToolCallParser",
    "ToolEvent",
    "ToolFormat",
    "find_format",
    "make_parser",
]
