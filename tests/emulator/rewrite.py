"""Rewrites Metal source as C++, with the same line numbers.

Owns the changes of text that a header cannot make; everything else is defined in
`runtime/`. Knows no compiler and no file.
"""

from __future__ import annotations

import re

# A local declaration `threadgroup T name[..];`, neither a pointer nor a parameter.
_THREADGROUP = re.compile(
    r"(^|[;{}]|\\\n)([ \t\r\n\\]*)threadgroup([ \t\r\n]+)"
    r"((?:[^;(){}=\[]|\[[^;\]]*\]|\([^;(){}]*\))*);",
    re.S,
)
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
_ATTRIBUTE = r"\[\[[^\]]*\]\](?:\s|\\\n)*"

_SUBSTITUTIONS = [
    # Attributes of an explicit instantiation.
    (rf"\btemplate((?:\s|\\\n)*)(?:{_ATTRIBUTE})+(?=decltype|void)", r"template\1"),
    # A function constant gets its value from the program's prologue.
    (
        r"\bconstant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\((\d+)\)\s*\]\]\s*;",
        r"static const \1 \2 = (\1)emu::function_constant<\3>;",
    ),
    # A threadgroup parameter of a kernel; the name is a macro here.
    (r"\[\[\s*threadgroup\(\d+\)\s*\]\]", ""),
    # The whole library is in one header.
    (r"#(\s*)include\s*<metal_\w+>", r"#\1include <metal_stdlib>"),
    (r"\b(\d+\.\d*|\.\d+|\d+)bf\b", r"bfloat(\1f)"),
    (
        r"#(\s*)pragma\s+METAL\s+fp\s+contract\s*\(",
        r"#\1pragma clang fp contract(",
    ),
]


def line_ends(text: str) -> str:
    """The text's line ends."""
    return re.sub(r"[^\n]", "", text)


def without_comments(text: str) -> str:
    """The text with spaces in place of comments."""

    def cut(match: re.Match) -> str:
        found = match.group(0)
        return re.sub(r"[^\n]", " ", found) if found[0] == "/" else found

    return _COMMENT.sub(cut, text)


def metal_to_cpp(text: str) -> str:
    """Rewrite one file of Metal source."""
    text = without_comments(text)
    # Neighbouring declarations share a separator, so repeat until nothing changes.
    before = None
    while before != text:
        before, text = text, _THREADGROUP.sub(_to_section, text)
    for pattern, replacement in _SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text)
    return text


def _to_section(match: re.Match) -> str:
    """Give static storage to a threadgroup variable, if the match is one."""
    start, space, gap, declaration = match.groups()
    flat = declaration
    for _ in range(6):
        flat = re.sub(r"\[[^\[\]]*\]|<[^<>]*>|\([^()]*\)", "", flat)
    plain = re.match(r"^[\w:\s,\\]+$", flat)
    if not plain or len(flat.replace("\\", " ").split()) < 2:
        return match.group(0)
    return f"{start}{space}EMU_THREADGROUP_VARIABLE{gap}{declaration};"


def one_address_space(name: str, text: str) -> str:
    """Remove the overloads in MLX's headers that differ only in an address space.

    Args:
        name: The file's name; two of MLX's files have such overloads.
        text: Its text.
    """
    if name == "complex.h":
        return _without_space_members(text)
    if name == "type_traits.h":
        pattern = (
            r"template <typename T>\s*struct "
            r"pointer_element<(device|constant|threadgroup) T\*> \{.*?\};"
        )
        return re.sub(pattern, lambda m: line_ends(m.group(0)), text, flags=re.S)
    return text


def _without_space_members(text: str) -> str:
    """Keep only the members of complex_t for `thread` memory."""
    opening = "struct complex_t {"
    start = text.index(opening) + len(opening)
    end = matching(text, start, "{}")
    spaced = r"\)\s*(const\s+)?(threadgroup|device|constant)\b"
    body = "".join(
        line_ends(member) if re.search(spaced, member) else member
        for member in _members(text[start : end - 1])
    )
    rest = re.sub(
        r"template <typename T>\nconstexpr (threadgroup|device) complex_t<T>& "
        r"operator\+=\(.*?\n}\n",
        lambda m: line_ends(m.group(0)),
        text[end - 1 :],
        flags=re.S,
    )
    return text[:start] + body + rest


def _members(body: str) -> list[str]:
    """Split a struct's body after each member."""
    members, member, depth = [], "", 0
    for char in body:
        member += char
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(char, 0)
        if depth == 0 and char in ";}":
            members.append(member)
            member = ""
    return [*members, member]


def matching(text: str, start: int, pair: str) -> int:
    """The position after the bracket that closes the one opened before `start`."""
    depth, at = 1, start
    while depth:
        depth += {pair[0]: 1, pair[1]: -1}.get(text[at], 0)
        at += 1
    return at


def split(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside brackets."""
    parts, part, depth = [], "", 0
    for char in text:
        depth += {"(": 1, "[": 1, "{": 1, "<": 1}.get(char, 0)
        depth -= {")": 1, "]": 1, "}": 1, ">": 1}.get(char, 0)
        if char == separator and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += char
    return [*parts, part] if part.strip() else parts
