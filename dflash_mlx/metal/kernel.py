"""What a kernel is: a launch, a plain twin, cases to compare them on.

Owns the way from a `.metal` file to something that MLX can call. Knows no kernel, no
model and no verdict; whether a kernel is used is dispatch.py's to say.
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
# MLX hands smaller inputs to a kernel as `constant`, which no `device` pointer takes.
LEAST_ELEMENTS = 8

# The keyword arguments of a launch and of its twin.
Case = dict[str, Any]


@dataclass(frozen=True)
class Kernel:
    """One kernel, and what it takes to trust it.

    Args:
        name: Its name in verdicts and reports.
        source: The `.metal` file that holds it.
        launch: Runs it; keyword arguments, one array or several out.
        twin: The same from MLX's stock operations, with the same arguments.
        cases: Small inputs that tests and the check on the device run.
        tolerance: Largest difference to the twin that rounding explains, for one
            case; 0 where bits must agree.
        refuses: Why it cannot run a call, in a few words; "" if it can.
    """

    name: str
    source: str
    launch: Callable[..., Any]
    twin: Callable[..., Any]
    cases: Callable[[], Iterator[Case]]
    tolerance: Callable[..., float]
    refuses: Callable[..., str]


def named(dtype: mx.Dtype) -> str:
    """A dtype in one word."""
    return str(dtype).removeprefix("mlx.core.")


@cache
def source(name: str) -> str:
    """The text of `name`.metal."""
    return (FOLDER / f"{name}.metal").read_text()


@cache
def fingerprint() -> str:
    """Twelve digits that change with the text of any kernel or launcher."""
    files = sorted([*FOLDER.glob("*.metal"), *FOLDER.glob("*.py")])
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@cache
def compiled(
    name: str,
    variant: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    body: str,
    contiguous: bool = True,
) -> Callable[..., list[mx.array]]:
    """A kernel that MLX compiles when it is first called.

    Args:
        name: The `.metal` file with its functions.
        variant: What tells this use of them from others.
        inputs, outputs: Names of the buffers in `body`.
        body: The call of one of the functions. MLX finds `x_shape`, `x_strides` and
            thread positions here only.
        contiguous: Copy inputs that are not row-contiguous.
    """
    return mx.fast.metal_kernel(
        name=f"dflash_{variant}",
        input_names=list(inputs),
        output_names=list(outputs),
        source=body,
        header=source(name),
        ensure_row_contiguous=contiguous,
    )
