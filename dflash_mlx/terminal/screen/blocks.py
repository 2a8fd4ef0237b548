"""Markdown as rich renders it, so that no word of a model's is lost.

Knows Markdown and rich; nothing of streams or screens.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit
from markdown_it.token import Token
from rich.console import Console
from rich.markdown import CodeBlock, Markdown, TableElement
from rich.syntax import Syntax

from .region import chopped, rows_of

# Raw HTML and link definitions would vanish: they are text here.
PARSER = MarkdownIt().enable(["strikethrough", "table"])
PARSER.disable(["html_block", "html_inline", "reference"])
# The colours of the terminal's own palette, on its own background.
THEME = "ansi_dark"
# Cells that a table's column needs to be read as one.
NARROWEST_COLUMN = 5
# Code within a line, with a bar in it.
BARS = re.compile(r"(`+)(?!`)[^`]*\|[^`]*\1(?!`)")


class Snippet(CodeBlock):
    """Code without a frame or padding, which a copy would take along."""

    def __rich_console__(self, console, options):
        """Code in rows."""
        yield highlighter(self.lexer_name, str(self.text).rstrip())


class Grid(TableElement):
    """A table whose cells are folded; rich would cut what has no blank to break at."""

    def __rich_console__(self, console, options):
        """rich's table."""
        for table in super().__rich_console__(console, options):
            for column in table.columns:
                column.overflow = "fold"
            yield table


class Page(Markdown):
    """A piece of Markdown, whole."""

    elements = {
        **Markdown.elements,
        "fence": Snippet,
        "code_block": Snippet,
        "table_open": Grid,
    }

    def __init__(self, source: str):
        super().__init__("", hyperlinks=False)
        self.parsed = PARSER.parse(source)
        for token in self.parsed:
            for part in token.children or ():
                # Models end lines where they mean it; Markdown would join them.
                if part.type == "softbreak":
                    part.type = "hardbreak"
                # rich would show it before the text that it stands in.
                elif part.type == "image":
                    part.type, part.children = "text", None
                    part.content = f"{part.content or 'image'} ({part.attrs['src']})"


class Block(NamedTuple):
    """A block at the top level.

    Args:
        kind: markdown-it's name of its first token.
        start, end: Its lines.
        parts: Lines at which its list items begin, if it is a list.
        columns: Of a table.
        token: The first token.
    """

    kind: str
    start: int
    end: int
    parts: list[int]
    columns: int
    token: Token


def blocks(source: str) -> list[Block]:
    """The top-level blocks of a source, in order."""
    found: list[Block] = []
    for token in PARSER.parse(source):
        if token.level == 0 and token.nesting >= 0 and token.map:
            found.append(Block(token.type, *token.map, [], 0, token))
        elif token.type == "list_item_open" and token.level == 1 and token.map:
            found[-1].parts.append(token.map[0])
        elif token.type == "th_open" and token.level == 3:
            found[-1] = found[-1]._replace(columns=found[-1].columns + 1)
    return found


def highlighter(language: str, code: str = "") -> Syntax:
    """rich's Syntax for a language; an unknown one has no colours."""
    return Syntax(
        code, language, theme=THEME, background_color="default", word_wrap=True
    )


def page_rows(console: Console, source: str, width: int) -> list[str]:
    """A source as rows, a blank one between two blocks and none around them.

    Args:
        console: Whose colours.
        source: Markdown.
        width: Most cells of a row.
    """
    lines = source.split("\n")
    rows: list[str] = []
    for block in blocks(source):
        written = lines[block.start : block.end]
        part = fitting(written, block.columns)
        if part is None or block.columns * NARROWEST_COLUMN > width:
            # No column, or no room for it: rich would leave cells out.
            own = [row for line in written if line for row in chopped(line, width)]
        else:
            own = rows_of(console, Page("\n".join(part)), width)
        rows += ["", *_trimmed(own)]
    return rows[1:]


def fitting(lines: list[str], columns: int) -> list[str] | None:
    """A table's lines with no more cells than its head has; None if some have more.

    A bar within backticks ends a cell, too; models seldom mean that, so it is escaped
    where a row has too many.

    Args:
        lines: Of a block.
        columns: Of the table; 0 if it is none.
    """
    if not columns:
        return lines
    fit = [
        BARS.sub(_escaped, line) if cells(line) > columns else line for line in lines
    ]
    return None if any(cells(line) > columns for line in fit) else fit


def cells(line: str) -> int:
    """How many cells a line of a table has."""
    parts = escapedSplit(line.strip())
    return len(parts) - (parts[0] == "") - (len(parts) > 1 and parts[-1] == "")


def _escaped(code):
    return re.sub(r"(?<!\\)\|", r"\\|", code.group())


def _trimmed(rows):
    """Rows without the blank ones around them; rich gives some blocks more."""
    kept = [i for i, row in enumerate(rows) if row]
    return rows[kept[0] : kept[-1] + 1] if kept else [""]
