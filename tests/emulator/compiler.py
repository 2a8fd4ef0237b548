"""clang, and a cache of what it made.

Everything compiled is kept in the user's temporary folder under a name that is the
hash of all that went into it, and comes there by renaming: processes may share it.
Knows files, folders and clang's command line, but no kernel.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import mlx.core as mx

from .errors import EmulatorError
from .rewrite import metal_to_cpp, one_address_space

RUNTIME = Path(__file__).parent / "runtime"
INCLUDE = Path(mx.__file__).parent / "include"
KERNELS = Path("mlx/backend/metal/kernels")
CLANG = "clang++-19"
CACHE = Path(tempfile.gettempdir()) / f"metal-emulator-{os.getuid()}"

LANGUAGE = """-std=c++17 -nostdinc -Wno-everything -fno-strict-aliasing
    -fno-threadsafe-statics -fno-exceptions -fno-rtti
    -Xclang -ffloat16-excess-precision=none
    -Xclang -cl-single-precision-constant""".split()
# What MLX puts in front of every kernel; compiled once for each set of flags.
PREFIX = """#include <metal_stdlib>
#include "mlx/backend/metal/kernels/utils.h"
"""


def available() -> str:
    """Why kernels cannot be emulated here; "" if they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the Metal emulator needs Linux on x86-64"
    if not shutil.which(CLANG):
        return f"the Metal emulator needs {CLANG} (apt install clang-19)"
    if not (INCLUDE / KERNELS).is_dir():
        return "this MLX comes without its kernel headers"
    if not {"avx2", "fma", "f16c"} <= set(Path("/proc/cpuinfo").read_text().split()):
        return "the Metal emulator needs AVX2, FMA and F16C"
    return ""


def digest(*parts: object) -> str:
    """A name for what these parts make."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:24]


def scratch(final: Path) -> Path:
    """Where this process makes a file that is renamed when it is done."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    return final.with_name(f"{final.name}.{os.getpid()}")


def clang(*arguments: object, source: str | None = None) -> str:
    """Run clang; its messages if it refuses, else ""."""
    command = [CLANG, *map(str, arguments)]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@cache
def circumstances() -> str:
    """What every result depends on: the runtime, its place, and clang."""
    files = [f for f in sorted(RUNTIME.rglob("*")) if f.is_file()]
    compiler = Path(shutil.which(CLANG)).stat()
    texts = [f.read_text() for f in files]
    return digest(RUNTIME, *texts, compiler.st_size, compiler.st_mtime)


@cache
def dates() -> str:
    """What a precompiled prefix depends on besides: `#pragma once` goes by dates."""
    trees = (RUNTIME, mlx_headers())
    files = [f for tree in trees for f in sorted(tree.rglob("*")) if f.is_file()]
    return digest(*(f.stat().st_mtime_ns for f in files))


@cache
def executor() -> Path:
    """The library that runs threads."""
    result = CACHE / f"executor_{circumstances()}.so"
    if not result.exists():
        made = scratch(result)
        sources = sorted(RUNTIME.glob("*.cpp"))
        faults = clang(*"-std=c++17 -O2 -g -fPIC -shared -o".split(), made, *sources)
        if faults:
            raise EmulatorError(f"the executor does not compile:\n{faults}")
        made.rename(result)
    return result


@cache
def mlx_headers() -> Path:
    """A rewritten copy of the installed MLX's kernel headers."""
    rewriting = Path(__file__).with_name("rewrite.py").read_text()
    tree = CACHE / f"mlx_{digest(mx.__version__, INCLUDE, rewriting)}"
    if tree.is_dir():
        return tree
    made = scratch(tree)
    for header in (INCLUDE / KERNELS).rglob("*.h"):
        copy = made / header.relative_to(INCLUDE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = one_address_space(header.name, metal_to_cpp(header.read_text()))
        copy.write_text(text)
    try:
        made.rename(tree)
    except OSError:  # Another process was faster.
        shutil.rmtree(made)
    return tree


def prefix(flags: list[str]) -> list[str]:
    """Arguments that put the precompiled prefix in front of a program."""
    # By content: another process may write the same header once more.
    flags = [*flags, *includes(), "-Xclang", "-fvalidate-ast-input-files-content"]
    header = CACHE / f"{digest(flags, circumstances(), dates())}.h"
    made = header.with_suffix(".pch")
    if not made.exists():
        written, built = scratch(header), scratch(made)
        written.write_text(PREFIX)
        written.rename(header)
        faults = clang(*flags, "-x", "c++-header", "-o", built, header)
        if faults:
            raise EmulatorError(f"the runtime does not compile:\n{faults}")
        built.rename(made)
    return [*flags, "-include-pch", str(made)]


def includes() -> list[str]:
    """Where headers are."""
    return [f"-I{RUNTIME}", f"-I{mlx_headers()}"]


def library(call: str, text: str, flags: list[str]) -> Path:
    """The library of a program whose text follows the prefix."""
    result = CACHE / f"{digest(text, flags, circumstances(), mlx_headers())}.so"
    if not result.exists():
        made = scratch(result)
        faults = clang(
            *prefix(flags),
            *("-shared", "-fno-sanitize-link-runtime", "-o", made),
            *("-x", "c++", "-", "-x", "none", executor(), "-lm"),
            source=text,
        )
        if faults:
            raise EmulatorError(f"{call} does not compile:\n{faults[:6000]}")
        made.rename(result)
    return result


def complaints(text: str, flags: list[str]) -> str:
    """What clang says against a whole text that it only reads."""
    result = CACHE / f"{digest(text, flags, circumstances(), mlx_headers())}.txt"
    if not result.exists():
        made = scratch(result)
        reading = "-fsyntax-only -x c++ -".split()
        made.write_text(clang(*flags, *includes(), *reading, source=text))
        made.rename(result)
    return result.read_text()
