"""The emulator passes arrays and constants to a kernel as MLX does."""

import platform

import mlx.core as mx
import numpy as np
import pytest

from dflash_mlx import device
from tests import emulator
from tests.emulator import EmulatorError
from tests.emulator.launching import (
    PLACES,
    SYNC,
    call,
    count,
    launch,
    make_kernel,
)


def test_correct_kernel(metal):
    body = f"""
        threadgroup float t[64]; t[i] = x[i]; {SYNC}
        float a = t[63 - i]; {SYNC}
        t[i] = a; simdgroup_barrier(mem_flags::mem_threadgroup);
        y[i] = t[i ^ 1] + simd_sum(x[i]);"""
    y = launch(body, count())
    x = np.arange(64)
    expected = (63 - (x ^ 1)) + x.reshape(2, 32).sum(1).repeat(32)
    assert np.array_equal(np.array(y), expected)
    counts = emulator.last()
    assert (counts["threads"], counts["barriers"], counts["threadgroup_bytes"]) == (
        64,
        2,
        256,
    )
    assert counts["accesses"] > 0


@pytest.mark.parametrize("size", ("64 == 64 ? 64 : 1", "sizeof(float2) * 8"))
def test_sizes_of_threadgroup_arrays(metal, size):
    body = f"threadgroup float t[{size}]; t[i] = x[i]; {SYNC} y[i] = t[63 - i];"
    assert mx.array_equal(launch(body, count()), count()[::-1])


def test_wide_accesses_are_watched(metal):
    """clang must not combine neighbouring accesses to one that is not checked."""
    body = """float t[8];
        for (int e = 0; e < 8; e++) t[e] = 2 * x[8 * i + e];
        for (int e = 0; e < 8; e++) y[8 * i + e] = t[e];"""
    assert mx.array_equal(launch(body, count(), threads=8), 2 * count())
    assert emulator.last()["accesses"] >= 2 * 64 // 4


def test_source_is_what_mlx_generates(metal, capfd):
    header = "template <typename T> T twice(T v) { return v + v; }\n"
    body = "y[i] = twice<T>(x[i]) + n + x_shape[0] + K;"
    template = [("T", mx.float32), ("K", 3)]
    kernel = make_kernel(body, ("x", "n"), header)
    y = call(kernel, [count(), 2], template=template, verbose=True)
    assert np.array_equal(np.array(y), 2 * np.arange(64) + 2 + 64 + 3)
    source = emulator.last()["source"]
    assert source in capfd.readouterr().out
    assert header in source and PLACES + body in source
    assert "const constant int32_t& n [[buffer(2)]]" in source


def test_scalar_inputs(metal):
    """A Python number is a `constant` reference of the type that MLX chooses."""
    kernel = make_kernel("y[i] = i % 2 ? float(n / 4) : float(sizeof(n));", ["n"])
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
    """An input of 8 elements is a `device` pointer, an input of 7 elements is not."""
    takes_device = make_kernel("y[i] = first(x);", header=SPACED.format("device"))
    takes_constant = make_kernel("y[i] = first(x);", header=SPACED.format("constant"))
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
def test_metal_is_not_available_after_a_test():
    assert not mx.metal.is_available()
    assert "memory_size" not in mx.device_info()


@pytest.mark.skipif(platform.system() != "Linux", reason="Linux is required first")
def test_no_clang(monkeypatch):
    monkeypatch.setattr("tests.emulator.compiler.CLANG", "clang++-none")
    assert emulator.missing_requirement().endswith(
        "needs clang++-none (apt install clang-19)"
    )
