"""Markdown blocks as rows of a terminal, rendered by rich without losing text.

Owns how each kind of block is displayed. Does not know streams or the screen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block.table import escapedSplit
from markdown_it.token import Token
from pygments import token as tokens
from rich.console import Console
from rich.markdown import CodeBlock, ListItem, Markdown, TableElement
from rich.segment import Segment
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.text import Text
from rich.theme import Theme

from .region import chop, render_rows

# rich drops raw HTML and link definitions, so they are parsed as text.
PARSER = MarkdownIt().enable(["strikethrough", "table"])
PARSER.disable(["html_block", "html_inline", "reference"])
# The colours of the terminal's own palette, on its own background, light or dark.
# `drafted` is the tag of tokens that mark_drafted adds.
DRAFTED = "drafted"
THEME = Theme(
    {
        "markdown.code": Style(bold=True, color="cyan"),
        f"markdown.{DRAFTED}": Style(color="green"),
    }
)
# On consoles without colours.
PLAIN_THEME = Theme({f"markdown.{DRAFTED}": Style(underline=True)})
CODE_THEME = ANSISyntaxTheme(
    {
        tokens.Comment: Style(dim=True),
        tokens.Keyword: Style(color="magenta"),
        tokens.Operator.Word: Style(color="magenta"),
        tokens.Keyword.Type: Style(color="cyan"),
        tokens.Name.Builtin: Style(color="cyan"),
        tokens.Name.Decorator: Style(color="magenta"),
        tokens.Name.Function: Style(bold=True),
        tokens.Name.Class: Style(bold=True),
        tokens.Name.Tag: Style(color="magenta"),
        tokens.Name.Attribute: Style(color="cyan"),
        tokens.Number: Style(color="cyan"),
        tokens.String: Style(color="green"),
        tokens.Generic.Deleted: Style(color="red"),
        tokens.Generic.Inserted: Style(color="green"),
        tokens.Generic.Heading: Style(bold=True),
    }
)
NO_LANGUAGE = "text"
# Cells of width that a table's column needs to be readable.
NARROWEST_COLUMN = 5
# Inline code with a bar in it.
CODE_WITH_BAR = re.compile(r"(`+)(?!`)[^`]*\|[^`]*\1(?!`)")


class PlainCode(CodeBlock):
    """A code block below its language, without frame or padding, which a copy of the
    code would have too."""

    def __rich_console__(self, console, options):
        if self.lexer_name != NO_LANGUAGE:
            yield Text(self.lexer_name, "dim")
        yield make_syntax(self.lexer_name, str(self.text).rstrip())


class DottedItem(ListItem):
    """A list item whose number keeps its dot; rich would drop it."""

    def render_number(self, console, options, number, last_number):
        width = len(str(last_number)) + 3
        lines = console.render_lines(
            self.elements,
            options.update(width=options.max_width - width),
            style=self.style,
        )
        style = console.get_style("markdown.item.number", default="none")
        for i, line in enumerate(lines):
            head = " " * width if i else f"{number}.".rjust(width - 1) + " "
            yield Segment(head, style)
            yield from line
            yield Segment.line()


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
        "list_item_open": DottedItem,
        "table_open": FoldedTable,
    }
    inlines = Markdown.inlines | {DRAFTED}

    def __init__(self, source: str, drafted: Sequence[int] | None = None):
        super().__init__("", hyperlinks=False)
        self.parsed = PARSER.parse(source)
        if drafted is not None:
            mark_drafted(self.parsed, source, drafted)
        for token in self.parsed:
            for part in token.children or ():
                # Models mean their line ends; Markdown would join the lines.
                if part.type == "softbreak":
                    part.type = "hardbreak"
                # rich would move an image in front of its paragraph.
                elif part.type == "image":
                    part.type, part.children = "text", None
                    part.content = f"{part.content or 'image'} ({part.attrs['src']})"

    def __rich_console__(self, console, options):
        with console.use_theme(PLAIN_THEME if console.no_color else THEME):
            yield from super().__rich_console__(console, options)


def mark_drafted(tokens: list[Token], source: str, drafted: Sequence[int]) -> None:
    """Enclose the drafted parts of paragraphs, headings and cells in DRAFTED tokens.

    Args:
        tokens: Of the parsed source; their children are replaced.
        source: Markdown.
        drafted: For each of its characters, whether it was drafted.
    """
    lines, at, next_start = source.split("\n"), [], 0
    for line in lines:
        at.append(next_start)
        next_start += len(line) + 1
    ends = [start + len(line) for start, line in zip(at, lines, strict=True)]
    for token in tokens:
        if token.type != "inline" or not token.map:
            continue
        flags: list[int] = []
        for number, line in enumerate(token.content.split("\n"), token.map[0]):
            begin = source.find(line, at[number], ends[number])
            if begin < 0:  # an escaped character, for example
                flags += [0] * (len(line) + 1)
                continue
            flags += [*drafted[begin : begin + len(line)], 0]
            at[number] = begin + len(line)
        token.children = list(_marked(token, flags))


def _marked(token: Token, flags: Sequence[int]) -> Iterator[Token]:
    """The children of an inline token, cut where `flags` of its content change."""
    at = 0
    for child in token.children or ():
        begin = -1
        if child.type in ("text", "code_inline") and child.content:
            begin = token.content.find(child.content, at)
        if begin < 0:
            yield child
            continue
        at = begin + len(child.content)
        code = child.type == "code_inline"
        if code:
            yield Token("code_open", "code", 1)
        for start, end in runs(flags[begin:at]):
            drafted = flags[begin + start]
            if drafted:
                yield Token(f"{DRAFTED}_open", DRAFTED, 1)
            yield Token("text", "", 0, content=child.content[start:end])
            if drafted:
                yield Token(f"{DRAFTED}_close", DRAFTED, -1)
        if code:
            yield Token("code_close", "code", -1)


def runs(flags: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of each stretch of equal values."""
    start = 0
    for i in range(1, len(flags) + 1):
        if i == len(flags) or bool(flags[i]) != bool(flags[start]):
            yield start, i
            start = i


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
        code, language, theme=CODE_THEME, background_color="default", word_wrap=True
    )


def markdown_rows(
    console: Console, source: str, width: int, drafted: Sequence[int] | None = None
) -> list[str]:
    """Markdown as rows, with a blank row between two blocks and none around them.

    Args:
        console: Provides the colours.
        source: Markdown.
        width: Maximum cells of a row.
        drafted: For each character of the source, whether it was drafted; None colours
            nothing by that.
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
            flags = None
            if drafted is not None and fitting == written:
                begin = sum(len(line) + 1 for line in lines[: block.start])
                flags = drafted[begin : begin + sum(len(each) + 1 for each in written)]
            markdown = LosslessMarkdown("\n".join(fitting), flags)
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
