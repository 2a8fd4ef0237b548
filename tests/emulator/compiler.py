"""clang, and what it compiles: the executor, the prefix and the programs.

Owns clang's command line and the contents that a compiled result depends on. Does not
know how a kernel becomes a program; see program.py.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import mlx.core as mx

from .cache import digest, entry, open_toolchain
from .errors import EmulatorError
from .rewrite import metal_to_cpp, one_address_space

RUNTIME = Path(__file__).parent / "runtime"
INCLUDE = Path(mx.__file__).parent / "include"
KERNELS = Path("mlx/backend/metal/kernels")
CLANG = "clang++-19"

LANGUAGE = """-std=c++17 -nostdinc -Wno-everything -fno-strict-aliasing
    -fno-threadsafe-statics -fno-exceptions -fno-rtti
    -Xclang -ffloat16-excess-precision=none
    -Xclang -cl-single-precision-constant""".split()
EXECUTOR = "-std=c++17 -O2 -g -fPIC -shared".split()
# The includes before every kernel; compiled once for each set of flags.
PREFIX = """#include <metal_stdlib>
#include "mlx/backend/metal/kernels/utils.h"
"""


def missing_requirement() -> str:
    """Why kernels cannot be emulated on this machine; "" if they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the Metal emulator needs Linux on x86-64"
    if not shutil.which(CLANG):
        return f"the Metal emulator needs {CLANG} (apt install clang-19)"
    if not (INCLUDE / KERNELS).is_dir():
        return "the installed MLX has no kernel headers"
    if not {"avx2", "fma", "f16c"} <= set(Path("/proc/cpuinfo").read_text().split()):
        return "the Metal emulator needs AVX2, FMA and F16C"
    return ""


def clang(*arguments: object, source: str | None = None) -> str:
    """Run clang. Returns its messages if it fails, else ""."""
    command = [CLANG, *map(str, arguments)]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def clang_version() -> str:
    """The version and target, without the folder where clang is installed."""
    command = [CLANG, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "\n".join(done.stdout.splitlines()[:2])


def files_below(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The texts of a folder's files by their path in it."""
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    return {str(file.relative_to(folder)): file.read_text() for file in files}


@cache
def toolchain() -> Path:
    """The cache's folder for this compiler, this runtime and the installed MLX."""
    rewriting = Path(__file__).with_name("rewrite.py").read_text()
    parts = [clang_version(), PREFIX, *EXECUTOR, rewriting]
    for texts in (files_below(RUNTIME), files_below(INCLUDE / KERNELS, "*.h")):
        parts += [part for item in texts.items() for part in item]
    return open_toolchain(digest(*parts))


def programs() -> Path:
    """The cache's folder for programs."""
    return toolchain() / "programs"


@cache
def headers() -> Path:
    """A copy of the runtime and of MLX's kernel headers, rewritten as C++.

    It lies in the cache, so that results do not refer to a clone's own files.
    """

    def make(tree: Path) -> None:
        shutil.copytree(RUNTIME, tree)
        for name, text in files_below(INCLUDE / KERNELS, "*.h").items():
            copy = tree / KERNELS / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(one_address_space(copy.name, metal_to_cpp(text)))
        (tree / "prefix.h").write_text(PREFIX)

    return entry(toolchain() / "headers", make)


@cache
def executor() -> Path:
    """The library that runs threads."""

    def make(library: Path) -> None:
        sources = sorted(headers().glob("*.cpp"))
        if errors := clang(*EXECUTOR, "-o", library, *sources):
            raise EmulatorError(f"the executor does not compile:\n{errors}")

    return entry(toolchain() / "executor.so", make)


def precompiled_prefix(flags: list[str]) -> Path:
    """The prefix, compiled with these flags."""

    def make(prefix: Path) -> None:
        source = headers() / "prefix.h"
        if errors := clang(*flags, include(), "-x", "c++-header", "-o", prefix, source):
            raise EmulatorError(f"the runtime does not compile:\n{errors}")

    return entry(toolchain() / f"{digest(*flags)}.pch", make)


def include() -> str:
    """The flag that names the folder of headers."""
    return f"-I{headers()}"


def library(call: str, text: str, flags: list[str]) -> Path:
    """The library of a program.

    Args:
        call: The kernel's name, for messages.
        text: The program after the prefix.
        flags: Of clang.
    """

    def make(library: Path) -> None:
        errors = clang(
            *(*flags, include(), "-include-pch", precompiled_prefix(flags)),
            *("-shared", "-fno-sanitize-link-runtime", "-o", library),
            *("-x", "c++", "-", "-x", "none", executor(), "-lm"),
            source=text,
        )
        if errors:
            raise EmulatorError(f"{call} does not compile:\n{errors[:6000]}")

    return entry(programs() / f"{digest(text, *flags)}.so", make)


def syntax_errors(text: str, flags: list[str]) -> str:
    """clang's messages for a complete text, which is checked and not compiled."""

    def make(messages: Path) -> None:
        arguments = [*flags, include(), *"-fsyntax-only -x c++ -".split()]
        messages.write_text(clang(*arguments, source=text))

    return entry(programs() / f"{digest(text, *flags)}.txt", make).read_text()
