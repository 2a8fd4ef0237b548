"""The emulator finds planted faults and hands arrays over as MLX does."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx import device
from tests import emulator
from tests.emulator import EmulatorError

PLACES = """uint i = thread_position_in_grid.x;
uint l = thread_index_in_simdgroup; uint s = simdgroup_index_in_threadgroup;
"""
SYNC = "threadgroup_barrier(mem_flags::mem_threadgroup);"
TRAP = "undefined behaviour trap"


def make(body, names=("x",), header="", contiguous=True):
    """A kernel of inputs `names` and output `y`."""
    return emulator.metal_kernel(
        name="t",
        input_names=names,
        output_names=["y"],
        source=PLACES + body,
        header=header,
        ensure_row_contiguous=contiguous,
    )


def call(kernel, inputs, threads=64, **more):
    """Its output, 64 float32, from one threadgroup."""
    (y,) = kernel(
        inputs=inputs,
        grid=(threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(64,)],
        output_dtypes=[mx.float32],
        **more,
    )
    return y


def launch(body, x, threads=64, header="", contiguous=True):
    return call(make(body, ("x",), header, contiguous), [x], threads)


def count(n=64):
    return mx.arange(n).astype(mx.float32)


# Each is wrong: the body, what must be said of it, the options that show it.
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


def test_correct_kernel(metal):
    body = f"""
        threadgroup float t[64]; t[i] = x[i]; {SYNC}
        float a = t[63 - i]; {SYNC}
        t[i] = a; simdgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = t[i ^ 1] + simd_sum(x[i]);"""
    y = launch(body, count())
    x = np.arange(64)
    want = (63 - (x ^ 1)) + x.reshape(2, 32).sum(1).repeat(32)
    assert np.array_equal(np.array(y), want)
    seen = emulator.last()
    assert (seen["threads"], seen["barriers"], seen["threadgroup_bytes"]) == (
        64,
        2,
        256,
    )
    assert seen["accesses"] > 0


@pytest.mark.parametrize("size", ("64 == 64 ? 64 : 1", "sizeof(float2) * 8"))
def test_sizes_of_threadgroup_arrays(metal, size):
    body = f"threadgroup float t[{size}]; t[i] = x[i]; {SYNC} y[i] = t[63 - i];"
    assert mx.array_equal(launch(body, count()), count()[::-1])


def test_wide_accesses_are_watched(metal):
    """A thread's 8 neighbours must not become one access that no check sees."""
    body = """float t[8];
        for (int e = 0; e < 8; e++) t[e] = 2 * x[8 * i + e];
        for (int e = 0; e < 8; e++) y[8 * i + e] = t[e];"""
    assert mx.array_equal(launch(body, count(), threads=8), 2 * count())
    assert emulator.last()["accesses"] >= 2 * 64 // 4


def test_source_is_what_mlx_generates(metal, capfd):
    header = "template <typename T> T twice(T v) { return v + v; }\n"
    body = "y[i] = twice<T>(x[i]) + n + x_shape[0] + K;"
    template = [("T", mx.float32), ("K", 3)]
    kernel = make(body, ("x", "n"), header)
    y = call(kernel, [count(), 2], template=template, verbose=True)
    assert np.array_equal(np.array(y), 2 * np.arange(64) + 2 + 64 + 3)
    source = emulator.last()["source"]
    assert source in capfd.readouterr().out
    assert header in source and PLACES + body in source
    assert "const constant int32_t& n [[buffer(2)]]" in source


def test_scalar_inputs(metal):
    """A Python number is a `constant` reference of the type that MLX gives it."""
    kernel = make("y[i] = i % 2 ? float(n / 4) : float(sizeof(n));", ["n"])
    for value, size, quarter in (
        (7, 4, 1),
        (-7, 4, -1),
        (7.0, 4, 1.75),
        (2**40, 8, 2**38),
        (True, 1, 0),
    ):
        assert call(kernel, [value])[:2].tolist() == [size, quarter]


SPACED = "float first(const {} float* p) {{ return p[0]; }}\n"


def test_small_inputs_are_constant(metal):
    """An input of 7 elements is no `device` pointer, one of 8 is."""
    takes_device = make("y[i] = first(x);", header=SPACED.format("device"))
    takes_constant = make("y[i] = first(x);", header=SPACED.format("constant"))
    with emulator.using(spaces=True):
        assert call(takes_device, [count(8) + 5])[0].item() == 5
        assert call(takes_constant, [count(7) + 5])[0].item() == 5
        for kernel, inputs in ((takes_device, count(7)), (takes_constant, count(8))):
            with pytest.raises(EmulatorError, match="mixes address spaces"):
                call(kernel, [inputs])


def test_address_spaces_of_helpers(metal):
    shared = f"threadgroup float t[64]; t[i] = x[i]; {SYNC} y[i] = first(t);"
    with emulator.using(spaces=True):
        with pytest.raises(EmulatorError, match="'const float\\* p' has no address"):
            launch("y[i] = first(x);", count(), header=SPACED.format(""))
        launch(shared, count(), header=SPACED.format("threadgroup"))
        with pytest.raises(EmulatorError, match="mixes address spaces"):
            launch(shared, count(), header=SPACED.format("device"))


STRIDED = "y[i] = x[(i / x_shape[1]) * x_strides[0] + (i % x_shape[1]) * x_strides[1]];"


@pytest.mark.parametrize("dtype", (mx.float32, mx.float16, mx.bfloat16, mx.uint8))
def test_strides_are_kept(metal, dtype):
    whole = mx.arange(160).reshape(8, 20).astype(dtype)
    for view in (
        whole[:, 3:11],
        whole[:, :8].T,
        whole[::-1, 4:12],
        mx.broadcast_to(whole[0, :8], (8, 8)),
    ):
        y = launch(STRIDED, view, contiguous=False)
        assert mx.array_equal(y, view.reshape(-1).astype(mx.float32))


def test_contiguous_inputs_are_copied(metal):
    view = count(160).reshape(8, 20)[:, 3:11]
    y = launch("y[i] = x[i] + 100 * x_strides[0];", view)
    assert mx.array_equal(y, view.reshape(-1) + 800)


def test_slice_of_a_cache(metal):
    """Rows of one head end where the cache's spare rows begin."""
    cache = mx.arange(2 * 64 * 4).reshape(1, 2, 64, 4).astype(mx.float32)
    keys = cache[:, :, :8]
    read = "y[i] = x[(i / 32) * x_strides[1] + i % 32 + {}];"
    y = launch(read.format(0), keys, contiguous=False)
    assert mx.array_equal(y, keys.reshape(-1))
    with pytest.raises(EmulatorError, match="out-of-bounds read .*'x' of 1152 bytes"):
        launch(read.format(1), keys, contiguous=False)
    over = "y[i] = x[(i / 32) * x_strides[1] + i % 32 + (i < 32)];"
    with pytest.raises(EmulatorError, match="'y' .*between the rows .*first at 31"):
        launch(over, keys, contiguous=False)


def test_init_value_and_atomics(metal):
    kernel = emulator.metal_kernel(
        name="t",
        input_names=["x"],
        output_names=["y"],
        source="atomic_fetch_add_explicit(&y[x[thread_position_in_grid.x] & 3],"
        "1, memory_order_relaxed);",
        atomic_outputs=True,
    )
    (y,) = kernel(
        inputs=[mx.arange(64)],
        grid=(64, 1, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[(4,)],
        output_dtypes=[mx.int32],
        init_value=10,
    )
    assert y.tolist() == [26] * 4


def test_options_nest(metal):
    with emulator.using(seeds=(4,), checks=False):
        launch("y[i] = x[i];", count())
        assert emulator.last()["accesses"] == 0
        with emulator.using(checks=True) as inner:
            assert inner.seeds == (4,)
            launch("y[i] = x[i];", count())
            assert emulator.last()["accesses"] > 0
    with pytest.raises(TypeError, match="simd_ordr"), emulator.using(simd_ordr=1):
        pass


def test_metal_taken_as_available(metal):
    assert mx.metal.is_available() and mx.default_device() == mx.cpu
    assert device.memory_bytes() == 51_539_607_552
    assert device.native_bfloat16()
    assert device.processor() == "Apple M3 Max"
    kernel = mx.fast.metal_kernel("t", ["x"], ["y"], "y[0] = 1;")
    assert isinstance(kernel, type(emulator.metal_kernel("t", ["x"], ["y"], "")))


@pytest.mark.skipif(mx.metal.is_available(), reason="a Mac has it")
def test_metal_is_given_back():
    assert not mx.metal.is_available()
    assert "memory_size" not in mx.device_info()


@pytest.mark.skipif(platform.system() != "Linux", reason="asks for Linux first")
def test_no_clang(monkeypatch):
    monkeypatch.setattr("tests.emulator.compiler.CLANG", "clang++-none")
    assert emulator.available().endswith("needs clang++-none (apt install clang-19)")


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import emulator.compiler, mlx.core as mx
emulator.compiler.CACHE = Path(sys.argv[2])
for i in range(3):
    body, header = f"y[0] = x[0] + {i};", "#include <metal_stdlib>\\n"
    kernel = emulator.metal_kernel("t", ["x"], ["y"], body, header)
    call = dict(grid=(1, 1, 1), threadgroup=(1, 1, 1))
    call |= dict(output_shapes=[(1,)], output_dtypes=[mx.float32])
    assert kernel(inputs=[mx.zeros(8)], **call)[0].item() == i
"""


@pytest.mark.slow
def test_two_processes_fill_one_cache(metal, tmp_path):
    cache = tmp_path / "cache"
    here = Path(__file__).parent.parent
    command = [sys.executable, "-c", WORKER, str(here), str(cache)]
    workers = [subprocess.Popen(command) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    left = sorted(
        file.suffix
        for file in cache.iterdir()
        if file.is_file() and not file.name.startswith("executor")
    )
    assert left == [".h", ".pch", ".so", ".so", ".so"]


@pytest.mark.slow
def test_a_prefix_older_than_its_headers_is_made_anew(metal, tmp_path):
    cache, tree = tmp_path / "cache", tmp_path / "tree"
    shutil.copytree(Path(__file__).parent, tree / "emulator")
    command = [sys.executable, "-c", WORKER, str(tree), str(cache)]
    assert subprocess.run(command).returncode == 0
    for result in cache.glob("*.so"):
        result.unlink()
    for header in (tree / "emulator/runtime").rglob("*"):
        os.utime(header, (1, 1))  # What a new clone in the same place does.
    assert subprocess.run(command).returncode == 0
