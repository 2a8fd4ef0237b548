"""Runs Metal kernels on the CPU, thread by thread, for tests.

Runs the text that a Mac would compile, on Linux with clang, and raises EmulatorError
for what Metal leaves undefined: accesses out of bounds, missing or divergent barriers,
races on threadgroup memory, outputs that are not written or that depend on the order of
threads, mixed address spaces. Does not know speed, registers or occupancy.

    def test_launch(metal):                      # the fixture in conftest.py
        with emulator.using(seeds=(0, 1, 2), checks=True, simd_order=1):
            y = launch(x, w)                     # mx.fast.metal_kernel is emulated
"""

from .compiler import missing_requirement
from .errors import EmulatorError
from .kernel import metal_kernel
from .launch import last, run_source
from .options import Options, using

__all__ = [
    "EmulatorError",
    "Options",
    "last",
    "metal_kernel",
    "missing_requirement",
    "run_source",
    "using",
]
