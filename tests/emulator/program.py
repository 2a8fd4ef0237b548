"""A kernel as a program: its flags, its entry point, its parameters, its checks.

Owns the flags and the text around a kernel. Does not run clang; see compiler.py.
"""

from __future__ import annotations

import re

from .compiler import LANGUAGE, PREFIX, headers, library, syntax_errors
from .errors import EmulatorError
from .options import Options
from .rewrite import metal_to_cpp
from .signature import Parameter, parameters, parameters_without_space

CODE = "-O2 -march=x86-64-v3 -fPIC -fno-plt -fvisibility=hidden".split()
TRAPS = """-fsanitize=bounds,alignment,shift,integer-divide-by-zero,vla-bound
    -fsanitize-trap=all""".split()
# Instruments accesses of up to 16 bytes, so clang must not combine accesses to wider
# ones. The hooks are in runtime/watch.cpp.
WATCH = """-fsanitize=thread -mllvm -tsan-instrument-func-entry-exit=0
    -fno-vectorize -fno-slp-vectorize""".split()
# What a kernel's math mode allows besides contraction.
MATH = {
    "safe": [],
    "relaxed": "-fassociative-math -freciprocal-math -fno-signed-zeros".split(),
    "fast": ["-ffast-math"],
}

PROLOGUE = """namespace emu {{ {constants} }}
#line 1 "kernel.metal"
"""
EPILOGUE = """
#line 1 "entry"
extern "C" {{
#define EMU_EXPORT __attribute__((visibility("default")))
#define EMU_OWN __attribute__((visibility("hidden"))) extern char
EMU_OWN __ehdr_start[], _end[];
// These symbols are missing if no variable is in threadgroup memory.
#pragma weak __start_emu_threadgroup
#pragma weak __stop_emu_threadgroup
EMU_OWN __start_emu_threadgroup[], __stop_emu_threadgroup[];
EMU_EXPORT void emu_entry(const emu::Thread* t, void* const* b) {{ {call}({args}); }}
EMU_EXPORT void emu_memory(char** shared, char** image) {{
  shared[0] = __start_emu_threadgroup;
  shared[1] = __stop_emu_threadgroup;
  image[0] = __ehdr_start;
  image[1] = _end;
}}
}}
"""


class Program:
    """One compiled kernel.

    Args:
        source: Metal source that contains or includes the kernel.
        call: Its name with template arguments: `sdpa_vector<half, 64, 64>`.
        constants: Values of function constants by index.
        options: Of these contract, math, checks and spaces are used.
        math: The kernel's own math mode, used if `options.math` is None.
    """

    def __init__(
        self,
        source: str,
        call: str,
        constants: dict[int, int | float | bool],
        options: Options,
        math: str = "safe",
    ):
        self.call = call
        self.source = source
        self.checks = options.checks
        body = metal_to_cpp(source)
        self.parameters = find_parameters(body, call)
        prologue = PROLOGUE.format(constants=_specialisations(constants))
        arguments = ", ".join(p.argument for p in self.parameters)
        epilogue = EPILOGUE.format(call=call, args=arguments)
        if options.spaces:
            check_spaces(call, source, prologue, body, epilogue)
        flags = [
            *LANGUAGE,
            *CODE,
            *TRAPS,
            f"-ffp-contract={options.contract}",
            *MATH[options.math or math],
            *(WATCH if options.checks else ()),
        ]
        self.library = library(call, prologue + body + epilogue, flags)

    def name(self, buffer: int) -> str:
        """The name of a buffer in the kernel."""
        names = {p.buffer: p.name for p in self.parameters}
        return names.get(buffer, str(buffer))


def _specialisations(constants: dict[int, int | float | bool]) -> str:
    return " ".join(
        f"template <> constexpr double function_constant<{index}> = {float(value)};"
        for index, value in sorted(constants.items())
    )


def find_parameters(body: str, call: str) -> list[Parameter]:
    """The kernel's parameters, from its source or the headers it includes."""
    function = re.match(r"[\w:]+", call).group(0)
    found = parameters(body, function)
    if found is None:
        found = parameters(_included(body, set()), function)
    if found is None:
        raise EmulatorError(f"no kernel {function} in the source")
    return found


def _included(text: str, seen: set[str]) -> str:
    """The text of all MLX headers that a text includes, each once."""
    parts = []
    for name in re.findall(r'^\s*#include\s+"([^"]+)"', text, re.M):
        header = headers() / name
        if name not in seen and header.exists():
            seen.add(name)
            inner = header.read_text()
            parts += [_included(inner, seen), inner]
    return "\n".join(parts)


def check_spaces(
    call: str, source: str, prologue: str, body: str, epilogue: str
) -> None:
    """Raise EmulatorError if the kernel mixes address spaces.

    bfloat is replaced by half, because in C++ an object in `device` memory cannot call
    its own members. Errors in MLX's headers are ignored.
    """

    def without_bfloat(text: str) -> str:
        return re.sub(r"\bbfloat(16_t)?\b", "half", text)

    text = PREFIX + prologue + without_bfloat(body) + without_bfloat(epilogue)
    messages = syntax_errors(text, [*LANGUAGE, "-DEMU_SPACES", "-ferror-limit=0"])
    faults = parameters_without_space(source) + [
        line
        for line in messages.splitlines()
        if line.startswith("kernel.metal:") and "error:" in line
    ]
    if faults:
        raise EmulatorError(f"{call} mixes address spaces:\n" + "\n".join(faults))
