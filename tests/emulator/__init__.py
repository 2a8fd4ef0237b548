"""Metal kernels on the CPU, thread by thread, for tests.

Runs the text that a Mac would compile, on Linux with clang, and refuses what Metal
leaves undefined: accesses out of bounds, missing or divergent barriers, races on
threadgroup memory, outputs that are not written or that depend on the order of
threads, mixed address spaces. It knows nothing of speed, registers or occupancy.

    def test_mine(metal):                        # the fixture in conftest.py
        with emulator.using(seeds=(0, 1, 2), checks=True, simd_order=1):
            y = launch(x, w)                     # mx.fast.metal_kernel runs here
"""

from .compiler import missing_requirement
from .errors import EmulatorError
from .kernel import metal_kernel
from .launch import last, run_source
from .options import Options, using

__all__ = [
    "EmulatorError",
    "Options",
    "missing_requirement",
    "last",
    "metal_kernel",
    "run_source",
    "using",
]
