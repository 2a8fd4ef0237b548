"""What a kernel consists of, and how MLX is given its source.

Owns the class `Kernel` and the way from `.metal` files to mx.fast.metal_kernel. Knows
no particular kernel, model or verdict; dispatch.py decides whether a kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import mlx.core as mx

FOLDER = Path(__file__).parent
# Rows of the largest block.
MAX_ROWS = 16
# MLX passes smaller inputs as `constant`, which no `device` pointer accepts.
MIN_ELEMENTS = 8
# What MLX raises when the compiler or the GPU fails.
KERNEL_ERRORS = (RuntimeError, ValueError)

# In what MLX raises when the GPU failed while it ran, or had no memory left. What runs
# next may fail too: after a hang, Metal may refuse all work of the process.
DEVICE_FAILURES = ("Command buffer execution failed", "Unable to allocate")

# The keyword arguments of a launch and of its twin.
Case = dict[str, Any]


@dataclass(frozen=True)
class Kernel:
    """One kernel, and what is needed to trust it.

    Args:
        name: Its name in verdicts and reports.
        sources: Its `.metal` files, joined in this order.
        launch: Runs it: a case as keyword arguments in, one array or several out.
        twin: The same computation by MLX's stock operations, with the same arguments.
            It multiplies matrices on the CPU: the GPU of an M5 rounds float32 factors
            to TF32, which is coarser than what the twin is compared to.
        cases: Small inputs for the tests and for the check on the device.
        tolerance: The largest difference from the twin that rounding explains, for
            one case; 0 where the bits must be equal.
        refusal: Why the kernel cannot run a case, as a predicate ("needs 1 to 16
            rows"); "" if it can.
    """

    name: str
    sources: tuple[str, ...]
    launch: Callable[..., Any]
    twin: Callable[..., Any]
    cases: Callable[[], Iterator[Case]]
    tolerance: Callable[..., float]
    refusal: Callable[..., str]


def dtype_names(*dtypes: mx.Dtype) -> str:
    """Names without the module, each once: "float32", or "float16 and float32"."""
    return " and ".join(str(d).removeprefix("mlx.core.") for d in dict.fromkeys(dtypes))


@cache
def source(*names: str) -> str:
    """The text of the `.metal` files with these names, joined.

    Without comments and indentation, because MLX copies and compares the whole text at
    every call.
    """
    text = "\n".join((FOLDER / f"{name}.metal").read_text() for name in names)
    lines = (line.partition("//")[0].strip() for line in text.splitlines())
    return "\n".join(filter(None, lines)) + "\n"


@cache
def fingerprint() -> str:
    """12 hexadecimal digits that change with the text of any kernel or launcher."""
    files = sorted([*FOLDER.glob("*.metal"), *FOLDER.glob("*.py")])
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@cache
def compiled(
    sources: Sequence[str],
    variant: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    body: str,
    contiguous: bool = True,
) -> Callable[..., list[mx.array]]:
    """Make a kernel, which MLX compiles when it is first called.

    Args:
        sources: The `.metal` files that hold its functions.
        variant: Part of the kernel's name; distinguishes the uses of these files.
        inputs, outputs: Names of the buffers in `body`.
        body: A call of one of the functions. MLX provides `x_shape`, `x_strides` and
            thread positions only if their names appear here.
        contiguous: Copy inputs that are not row-contiguous.
    """
    return mx.fast.metal_kernel(
        name=f"dflash_{variant}",
        input_names=list(inputs),
        output_names=list(outputs),
        source=body,
        header=source(*sources),
        ensure_row_contiguous=contiguous,
    )


def is_device_failure(error: Exception) -> bool:
    """Whether the GPU failed, so that nothing is known about the kernel that it ran."""
    return any(text in str(error) for text in DEVICE_FAILURES)


def error_summary(error: Exception) -> str:
    """The most useful line of an error: the compiler's first "error:", or the first
    line that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    compiler_errors = [line for line in lines if "error:" in line]
    return next(iter(compiler_errors + lines), "no message")
