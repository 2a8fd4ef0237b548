"""The emulator finds planted faults."""

import pytest

from tests import emulator
from tests.emulator import EmulatorError
from tests.emulator.launching import SYNC, count, launch

TRAP = "undefined behaviour trap"

# By name: a wrong body, the expected message, and the options that reveal it.
FAULTS = {
    "read past the end": ("y[i] = x[i + 1];", "out-of-bounds read .*'x'.*offset 256"),
    "read before the start": (
        "y[i] = x[int(i) - 1];",
        "out-of-bounds read .*'x'.*offset -4",
    ),
    "read far away": ("y[i] = x[i + 100000];", "out-of-bounds read .*'x'"),
    "write past the end": (
        "y[i + (i == 63)] = x[i];",
        "out-of-bounds write .*'y'.*offset 256",
    ),
    "write to an input": (
        "y[i] = 1; ((device float*)x)[i] = 2;",
        "write to read-only buffer 0 'x' byte 0",
    ),
    "past the end without checks": (
        "y[i] = x[i + 1];",
        "out-of-bounds read .*'x'.*offset 256",
        {"checks": False},
    ),
    "before the start without checks": (
        "y[i] = x[int(i) - 1];",
        "out-of-bounds read .*'x'.*offset -4",
        {"checks": False, "seeds": (0, 1)},
    ),
    "write to an input without checks": (
        "y[i] = 1; ((device float*)x)[i] = 2;",
        "out-of-bounds write .*'x'.*read-only",
        {"checks": False},
    ),
    "no barrier, order": (
        "threadgroup float t[64]; t[i] = x[i]; y[i] = t[63 - i];",
        "'y' depends on the order of threads: 64 of 64 elements, first at 0 ",
        {"checks": False},
    ),
    "no barrier, read too early": (
        "threadgroup float t[64]; t[i] = 1.0f; y[i] = t[63 - i];",
        "read of threadgroup memory never written",
    ),
    "no barrier, race": (
        "threadgroup float t[64]; t[i] = 1.0f; y[i] = t[i / 2];",
        "data race on threadgroup memory: read after unordered write",
        {"seeds": (0,)},
    ),
    "no simdgroup barrier": (
        "threadgroup float t[64]; t[i] = 1.0f; y[i] = t[i & ~1u];",
        "data race on threadgroup memory: read after unordered write",
        {"seeds": (0,)},
    ),
    "write after read": (
        f"threadgroup float t[64]; t[i] = 1.0f; {SYNC} float a = t[l];"
        "if (s == 0) t[i] = 2.0f; y[i] = a;",
        "data race on threadgroup memory: write after unordered read",
        {"seeds": (0,)},
    ),
    "two writers": (
        f"threadgroup float t[8]; t[i & 7] = 1.0f; {SYNC} y[i] = t[i & 7];",
        "data race on threadgroup memory: write after unordered write",
    ),
    "wrong barrier flag": (
        "threadgroup float t[64]; t[i] = 1.0f;"
        "threadgroup_barrier(mem_flags::mem_device); y[i] = t[i ^ 33];",
        "data race on threadgroup memory: read after unordered write",
    ),
    "threadgroup memory not filled": (
        f"threadgroup float t[64]; if (i < 60) t[i] = 1.0f; {SYNC} y[i] = t[i];",
        "read of threadgroup memory never written",
    ),
    "barrier in one simdgroup": (
        f"if (s == 0) {SYNC} y[i] = 1;",
        "threadgroup_barrier after some threads have exited",
    ),
    "barriers in two branches": (
        f"if (l < 5) {SYNC} else threadgroup_barrier(mem_flags::mem_none); y[i] = 1;",
        "divergent simdgroup operation or barrier",
    ),
    "barriers of two simdgroups": (
        f"if (s == 0) {SYNC} else threadgroup_barrier(mem_flags::mem_none); y[i] = 1;",
        "threadgroup_barrier reached from different places",
    ),
    "barrier after return": (
        f"if (i > 40) return; {SYNC} y[i] = 1;",
        "threadgroup_barrier after some threads have exited",
    ),
    "divergent reduction": (
        "y[i] = l < 16 ? simd_sum(1.0f) : simd_max(2.0f);",
        "divergent simdgroup operation.*simd_sum line 9.*simd_max line 9",
    ),
    "divergent loop": (
        "float a = 0; for (uint k = 0; k < 1 + (l & 1); k++) a += simd_sum(1.0f);"
        "y[i] = a + simd_max(1.0f);",
        "divergent simdgroup operation or barrier",
    ),
    "element not written": (
        "if (i != 7) y[i] = 1;",
        "'y' is not written everywhere: 1 of 64 elements, first at 7",
        {"checks": False},
    ),
    "element not written, one run": (
        "if (i != 7) y[i] = 1;",
        "'y' is not written everywhere: first at byte 28",
        {"seeds": (0,)},
    ),
    "two threads write one element": (
        "y[i] = 0; y[0] = i;",
        "'y' depends on the order of threads",
    ),
    "endless loop": (
        "volatile int q = 1; while (q) {} y[i] = 1;",
        "CPU time limit exceeded",
        {"cpu_limit_ms": 100},
    ),
    "past a local array": (
        "float t[4]; for (uint k = 0; k < 4; k++) t[k] = 1; y[i] = t[i];",
        TRAP,
    ),
    "past a threadgroup array": ("threadgroup float t[32]; t[i] = 1; y[i] = 1;", TRAP),
    "misaligned load": ("y[i] = ((const device float4*)(x + 1))[0].x;", TRAP),
    "shift by 40": ("uint q = 1; y[i] = q << (i + 40);", TRAP),
    "division by zero": ("y[i] = 1 / int(x[i]);", f"{TRAP}|division by zero"),
    "bfloat from float": (
        "bfloat b = x[i]; y[i] = b;",
        "kernel.metal:9:8: error: no viable conv",
    ),
    "min of two types": ("y[i] = min(3, i);", "call to 'min' is ambiguous"),
    "40 KB of threadgroup memory": (
        f"threadgroup float t[10240]; t[i * 160] = 1; {SYNC}y[i] = t[10080 - 160 * i];",
        "40960 bytes of threadgroup memory; Metal allows 32768",
    ),
    "stack overflow": (
        "float big[200000]; for (uint k = 0; k < 200000; k++) big[k] = k * x[i];"
        "y[i] = big[uint(x[i]) * 3000];",
        "stack overflow of thread|out-of-bounds write",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault(metal, name):
    body, message, *options = FAULTS[name]
    with (
        emulator.using(**(options[0] if options else {})),
        pytest.raises(EmulatorError, match=message),
    ):
        launch(body, count())


def test_threadgroup_too_large(metal):
    with pytest.raises(EmulatorError, match="2048 threads exceeds 1024"):
        launch("y[i & 63] = 1;", count(), threads=2048)
