"""Kernels of a few statements, for the emulator's own tests."""

import mlx.core as mx

from tests import emulator

PLACES = """uint i = thread_position_in_grid.x;
uint l = thread_index_in_simdgroup; uint s = simdgroup_index_in_threadgroup;
"""
SYNC = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def make_kernel(body, names=("x",), header="", contiguous=True):
    """A kernel with inputs `names` and output `y`."""
    return emulator.metal_kernel(
        name="t",
        input_names=names,
        output_names=["y"],
        source=PLACES + body,
        header=header,
        ensure_row_contiguous=contiguous,
    )


def call(kernel, inputs, threads=64, **options):
    """The kernel's output, 64 numbers in float32, from one threadgroup."""
    (y,) = kernel(
        inputs=inputs,
        grid=(threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(64,)],
        output_dtypes=[mx.float32],
        **options,
    )
    return y


def launch(body, x, threads=64, header="", contiguous=True):
    """The output of a kernel with input `x`."""
    return call(make_kernel(body, ("x",), header, contiguous), [x], threads)


def count(n=64):
    """0, 1, ... in float32."""
    return mx.arange(n).astype(mx.float32)
