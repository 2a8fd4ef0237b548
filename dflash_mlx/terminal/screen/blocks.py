"""Markdown blocks as rows of a terminal, rendered by rich without losing text.

Owns how each kind of block is displayed. Does not know streams or the screen.
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

from .region import chop, render_rows

# rich drops raw HTML and link definitions, so they are parsed as text.
PARSER = MarkdownIt().enable(["strikethrough", "table"])
PARSER.disable(["html_block", "html_inline", "reference"])
# The colours of the terminal's own palette, on its own background.
THEME = "ansi_dark"
# Cells of width that a table's column needs to be readable.
NARROWEST_COLUMN = 5
# Inline code with a bar in it.
CODE_WITH_BAR = re.compile(r"(`+)(?!`)[^`]*\|[^`]*\1(?!`)")


class PlainCode(CodeBlock):
    """A code block without frame or padding, which a copy would have too."""

    def __rich_console__(self, console, options):
        yield make_syntax(self.lexer_name, str(self.text).rstrip())


class FoldedTable(TableElement):
    """A table that folds its cells; rich would cut long words in them."""

    def __rich_console__(self, console, options):
        for table in super().__rich_console__(console, options):
            for column in table.columns:
                column.overflow = "fold"
            yield table


class LosslessMarkdown(Markdown):
    """rich's Markdown, with line ends and images kept where the model wrote them."""

    elements = {
        **Markdown.elements,
        "fence": PlainCode,
        "code_block": PlainCode,
        "table_open": FoldedTable,
    }

    def __init__(self, source: str):
        super().__init__("", hyperlinks=False)
        self.parsed = PARSER.parse(source)
        for token in self.parsed:
            for part in token.children or ():
                # Models mean their line ends; Markdown would join the lines.
                if part.type == "softbreak":
                    part.type = "hardbreak"
                # rich would move an image in front of its paragraph.
                elif part.type == "image":
                    part.type, part.children = "text", None
                    part.content = f"{part.content or 'image'} ({part.attrs['src']})"


class Block(NamedTuple):
    """A block at the top level.

    Args:
        kind: markdown-it's name of its first token.
        start, end: Its lines.
        items: First lines of its list items, if it is a list.
        columns: Number of columns; 0 unless it is a table.
        token: Its first token.
    """

    kind: str
    start: int
    end: int
    items: list[int]
    columns: int
    token: Token


def top_level_blocks(source: str) -> list[Block]:
    """The top-level blocks of a source, in order."""
    found: list[Block] = []
    for token in PARSER.parse(source):
        if token.level == 0 and token.nesting >= 0 and token.map:
            found.append(Block(token.type, *token.map, [], 0, token))
        elif token.type == "list_item_open" and token.level == 1 and token.map:
            found[-1].items.append(token.map[0])
        elif token.type == "th_open" and token.level == 3:
            found[-1] = found[-1]._replace(columns=found[-1].columns + 1)
    return found


def make_syntax(language: str, code: str = "") -> Syntax:
    """rich's Syntax for a language; an unknown one has no colours."""
    return Syntax(
        code, language, theme=THEME, background_color="default", word_wrap=True
    )


def markdown_rows(console: Console, source: str, width: int) -> list[str]:
    """Markdown as rows, with a blank row between two blocks and none around them.

    Args:
        console: Provides the colours.
        source: Markdown.
        width: Maximum cells of a row.
    """
    lines = source.split("\n")
    rows: list[str] = []
    for block in top_level_blocks(source):
        written = lines[block.start : block.end]
        fitting = fit_cells(written, block.columns)
        if fitting is None or block.columns * NARROWEST_COLUMN > width:
            # rich would leave out the cells that have no column or no room.
            block_rows = [row for line in written if line for row in chop(line, width)]
        else:
            markdown = LosslessMarkdown("\n".join(fitting))
            block_rows = render_rows(console, markdown, width)
        rows += ["", *_strip_blank(block_rows)]
    return rows[1:]


def fit_cells(lines: list[str], columns: int) -> list[str] | None:
    """The lines of a table, none with more cells than its head.

    A bar in inline code ends a cell too. Models rarely mean that, so it is escaped in
    rows with too many cells.

    Args:
        lines: The lines of a block.
        columns: The table's number of columns; 0 for another block, which is returned
            as it is.

    Returns:
        The lines; None if one still has more cells.
    """
    if not columns:
        return lines
    fitting = [
        CODE_WITH_BAR.sub(_escape_bars, line) if count_cells(line) > columns else line
        for line in lines
    ]
    return None if any(count_cells(line) > columns for line in fitting) else fitting


def count_cells(line: str) -> int:
    """The number of cells in a line of a table."""
    parts = escapedSplit(line.strip())
    return len(parts) - (parts[0] == "") - (len(parts) > 1 and parts[-1] == "")


def _escape_bars(code: re.Match) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", code.group())


def _strip_blank(rows: list[str]) -> list[str]:
    """Rows without the blank ones that rich adds around some blocks."""
    kept = [i for i, row in enumerate(rows) if row]
    return rows[kept[0] : kept[-1] + 1] if kept else [""]
