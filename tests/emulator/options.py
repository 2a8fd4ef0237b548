"""What may vary between two runs of a kernel, and the setting now in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Options:
    """How kernels are compiled and run.

    Args:
        seeds: One run each, outputs compared bit by bit. 0 runs lanes, simdgroups and
            threadgroups in order, 1 in reverse, others in a random order.
        checks: Watch every access: exact bounds, races on threadgroup memory, reads
            of what was never written. Ten times slower.
        spaces: Also compile with address spaces as part of the types.
        contract: Contraction of multiply and add: "on" within a statement, "off",
            "fast" across statements.
        math: "safe", "relaxed" (sums in any order) or "fast" (no NaN, no infinity
            either); None takes what the kernel asks for.
        simd_order: Order of a SIMD reduction: 0 butterfly with neighbours first, 1
            halves first, 2 sequential, 3 sequential from the last lane.
        mma_order: Sum of an 8x8 matrix product: 0 fused, 1 multiply then add, 2
            pairwise, 3 in double.
        exp_mode: exp, log and the like, but those in precise::, are 0 correctly
            rounded, 1 the same but exp(x) is exp2(x * log2 e), 2 off by up to 2
            units in the last place.
        ftz: Flush subnormals to zero.
        cpu_limit_ms: CPU time for one run.
        max_groups: Run only so many threadgroups; 0 runs all.
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
    """The options in force."""
    return _options


@contextmanager
def using(**changes: object) -> Iterator[Options]:
    """Change options for the launches inside; those not named stay as they are."""
    global _options
    outer = _options
    _options = replace(outer, **changes)
    try:
        yield _options
    finally:
        _options = outer
