"""A kernel's parameters, and the arguments that the entry point passes for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import EmulatorError
from .rewrite import matching, split, without_comments

# Metal's attributes, and where the runtime stores their values.
_TRIPLES = {
    "thread_position_in_grid": "t->in_grid",
    "thread_position_in_threadgroup": "t->in_group",
    "threadgroup_position_in_grid": "emu::group.position",
    "threadgroups_per_grid": "emu::group.groups",
    "threads_per_grid": "emu::group.grid",
    "grid_size": "emu::group.grid",
    "threads_per_threadgroup": "emu::group.size",
    "dispatch_threads_per_threadgroup": "emu::group.dispatched",
}
_NUMBERS = {
    "thread_index_in_simdgroup": "t->lane",
    "simdgroup_index_in_threadgroup": "t->simdgroup",
    "thread_index_in_threadgroup": "t->index",
    "simdgroups_per_threadgroup": "emu::group.simdgroups",
    "dispatch_simdgroups_per_threadgroup": "emu::group.simdgroups",
    "threads_per_simdgroup": "emu::simd_width",
    "thread_execution_width": "emu::simd_width",
    "quadgroup_index_in_threadgroup": "t->index / 4",
    "thread_index_in_quadgroup": "t->index % 4",
    "quadgroups_per_threadgroup": "(emu::group.threads + 3) / 4",
}
_WITH_SPACE = re.compile(
    r"\b(device|constant|thread|threadgroup|ray_data|object_data)\b"
)
_NOT_FUNCTIONS = "if for while switch return sizeof decltype constexpr".split()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel; `buffer` is its index, or None for an attribute."""

    name: str
    buffer: int | None
    argument: str


def parameters(source: str, function: str) -> list[Parameter] | None:
    """The parameters of a kernel in rewritten source; None if it is not in there."""
    found = re.search(rf"\bvoid\s+{re.escape(function)}\s*\(", source)
    if not found:
        return None
    end = matching(source, found.end(), "()")
    return [_parameter(p) for p in split(source[found.end() : end - 1])]


def _parameter(text: str) -> Parameter:
    attributes = " ".join(re.findall(r"\[\[(.*?)\]\]", text, re.S))
    declaration = re.sub(r"\[\[.*?\]\]", "", text, flags=re.S).strip()
    name = re.search(r"(\w+)\s*(\[\d*\])?$", declaration).group(1)
    if index := re.search(r"\bbuffer\(\s*(\d+)\s*\)", attributes):
        kind = "Reference" if "&" in declaration else "Pointer"
        argument = f"emu::{kind}{{b[{index[1]}]}}"
        return Parameter(name, int(index[1]), argument)
    for word in re.findall(r"\w+", attributes):
        if place := _TRIPLES.get(word):
            return Parameter(name, None, f"emu::Triple{{{place}}}")
        if place := _NUMBERS.get(word):
            return Parameter(name, None, f"({place})")
    raise EmulatorError(f"parameter {declaration!r}: cannot emulate {attributes!r}")


def parameters_without_space(source: str) -> list[str]:
    """Messages for pointers and references without an address space, which Metal
    rejects."""
    source = without_comments(source)
    faults = []
    for match in re.finditer(r"\b(\w+)\s*\(", source):
        if match[1] in _NOT_FUNCTIONS:
            continue
        parts = _definition(source, match)
        for part in split(parts) if parts else ():
            bare = re.sub(r"\[\[.*?\]\]|<[^<>]*>|\[[^\]]*\]|=.*", " ", part, flags=re.S)
            if ("*" in bare or "&" in bare) and not _WITH_SPACE.search(bare):
                line = source.count("\n", 0, match.start()) + 1
                faults.append(
                    f"kernel.metal:{line}: {match[1]}: parameter "
                    f"'{' '.join(part.split())}' has no address space"
                )
    return faults


def _definition(source: str, match: re.Match) -> str:
    """The parameter list if a match begins a function's definition, else ""."""
    try:
        end = matching(source, match.end(), "()")
    except IndexError:
        return ""
    follows = r"\s*(const\s*)?(thread|device|constant|threadgroup)?\s*(:[^:]|\{)"
    before = source[: match.start()].rstrip()
    if not re.match(follows, source[end : end + 60]):
        return ""
    if not re.search(r"[\w>&*]$", before):
        return ""
    if re.search(r"\b(return|else|case|new)$", before):
        return ""
    return source[match.end() : end - 1]
