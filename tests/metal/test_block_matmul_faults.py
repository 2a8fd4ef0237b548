"""The checks of the matmul kernels find faults that are planted in the kernels."""

import mlx.core as mx
import pytest

from dflash_mlx.metal import block_matmul
from dflash_mlx.metal import kernel as kernels
from tests import emulator
from tests.metal.matmul_cases import error, every_kernel, is_quantized, make_case

pytestmark = pytest.mark.usefixtures("metal")

FAULTS = [
    # Kernel, text in its source, and the text that replaces it.
    ("quantized_matmul_exact", "if (m < M) {", "{"),  # over-read at the last row
    ("quantized_matmul_exact", "part == 0 && m < M &&", "part == 0 &&"),
    ("quantized_matmul_exact", "min(first + i * apart, N - 1)", "first + i * apart"),
    ("quantized_matmul_exact", "k / group_size;", "(k + 32) / group_size;"),
    ("quantized_matmul_exact", "b / 16.0f", "b / 8.0f"),
    ("quantized_matmul_exact", "float accum = 0;", "half accum = 0;"),
    ("quantized_matmul_exact", "simdgroup * outputs * apart + lane / lanes",
     "simdgroup * outputs * apart + lane % lanes"),  # wrong lane map
    ("matmul_exact", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("matmul_exact", "!tail || j < left", "true"),
    ("matmul_exact", "if (left > 0) {", "if (left > 4) {"),
    ("matmul_exact", "lanes / 2; apart >= 1", "lanes / 4; apart >= 1"),
    ("quantized_matmul_fast", "(lane / 2) % 4;", "(lane / 4) % 4;"),  # wrong lane map
    ("quantized_matmul_fast", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("quantized_matmul_fast", "+ e, M - 1)", "+ e, 15)"),
    ("quantized_matmul_fast", "scales[k / group_size]", "scales[0]"),
    ("quantized_matmul_fast", "!tail || k < K;", "true;"),
    ("quantized_matmul_fast", "m < M && output < N", "m < M"),
    ("matmul_fast", "!tail || i < left ? float(from[i]) : 0.0f", "float(from[i])"),
    ("matmul_fast", "float total = shared[e];", "half total = shared[e];"),
]  # fmt: skip


def is_caught(kernel):
    """Whether the emulator or the comparison with the twin reports an error."""
    tail = 1088 if is_quantized(kernel) else 1027
    with emulator.using(checks=True, seeds=(0, 1, 2)):
        for n, k in ((13, 192), (4, tail)):
            case = make_case(kernel, 5, n, k, mx.float32)
            try:
                y = kernel.launch(**case)
            except emulator.EmulatorError:
                return True
            if error(kernel, case, y) > 1:
                return True
    return False


@every_kernel
@pytest.mark.full("metal")
def test_finds_no_fault_in_the_real_kernels(kernel):
    assert not is_caught(kernel)


@pytest.mark.full("metal")
@pytest.mark.parametrize("name, old, new", FAULTS)
def test_finds_planted_fault(name, old, new, monkeypatch):
    (kernel,) = (kernel for kernel in block_matmul.KERNELS if kernel.name == name)
    text = kernels.source(*kernel.sources)
    assert old in text
    monkeypatch.setattr(kernels, "source", lambda *names: text.replace(old, new))
    kernels.compiled.cache_clear()
    assert is_caught(kernel)
