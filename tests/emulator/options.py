"""Options of compiling and running a kernel, and the current ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Options:
    """How kernels are compiled and run.

    Args:
        seeds: One run per seed, whose outputs must be equal bit by bit. 0 runs lanes,
            simdgroups and threadgroups in order, 1 in reverse, others in random order.
        checks: Check every access: exact bounds, races on threadgroup memory, reads of
            memory that was never written. Ten times slower.
        spaces: Also compile with address spaces as part of the types.
        contract: Contraction of multiply and add: "on" within a statement, "off",
            "fast" across statements.
        math: "safe", "relaxed" (sums in any order) or "fast" (also no NaN and no
            infinity); None is the kernel's own math mode.
        simd_order: Order of a SIMD reduction: 0 butterfly with neighbours first, 1
            halves first, 2 sequential, 3 sequential from the last lane.
        mma_order: Sum of an 8x8 matrix product: 0 fused, 1 multiply then add, 2
            pairwise, 3 in double.
        exp_mode: exp, log and similar functions outside precise:: are 0 correctly
            rounded, 1 the same but exp(x) is exp2(x * log2 e), 2 wrong by up to 2 units
            in the last place.
        ftz: Flush subnormals to zero.
        cpu_limit_ms: CPU time that one run may take.
        max_groups: The number of threadgroups to run; 0 runs all.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    checks: bool = True
    spaces: bool = False
    contract: str = "on"
    math: str | None = None
    simd_order: int = 0
    mma_order: int = 0
    exp_mode: int = 0
    ftz: bool = False
    cpu_limit_ms: int = 120_000
    max_groups: int = 0


_options = Options()


def current() -> Options:
    """The current options."""
    return _options


@contextmanager
def using(**changes: object) -> Iterator[Options]:
    """Change the given options for the launches inside the block."""
    global _options
    outer = _options
    _options = replace(outer, **changes)
    try:
        yield _options
    finally:
        _options = outer
