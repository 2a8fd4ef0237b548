"""The emulated mx.fast.metal_kernel.

Owns the way from a call of a kernel to its source, which is MLX's own: without Metal,
MLX still records the call while a function is exported, with the whole text that a Mac
would compile. Does not know how the source runs; see launch.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from .arrays import strides, to_numpy
from .errors import EmulatorError
from .launch import Output, load, run
from .runner import Buffer

# MLX's own function, which a test may replace later.
_metal_kernel = mx.fast.metal_kernel
# MLX passes arrays with fewer elements as `constant`.
_MIN_DEVICE_ELEMENTS = 8


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: dict[str, str] | None = None,
) -> MetalKernel:
    """Has the arguments of mx.fast.metal_kernel."""
    options = {} if compile_options is None else {"compile_options": compile_options}
    recorder = _metal_kernel(
        name=name,
        input_names=input_names,
        output_names=output_names,
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
        **options,
    )
    math = (compile_options or {}).get("math_mode", "safe")
    return MetalKernel(
        recorder, list(input_names), list(output_names), ensure_row_contiguous, math
    )


class MetalKernel:
    """A kernel that is emulated when it is called, with the arguments of MLX's."""

    def __init__(self, recorder, input_names, output_names, contiguous, math):
        self.recorder = recorder
        self.input_names = input_names
        self.output_names = output_names
        self.contiguous = contiguous
        self.math = math
        self.records: dict[tuple, dict] = {}

    def __call__(
        self,
        *,
        inputs,
        output_shapes,
        output_dtypes,
        grid,
        threadgroup,
        template=None,
        init_value=None,
        verbose=False,
        stream=None,
    ) -> list[mx.array]:
        record = self.record(
            inputs,
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
            template=template,
            verbose=verbose,
        )
        name, source = record["arguments"][:2]
        buffers = dict(enumerate(self._buffers(inputs, record)))
        outputs = {
            len(buffers) + i: Output(n, tuple(shape), dtype, init_value)
            for i, (n, shape, dtype) in enumerate(
                zip(self.output_names, output_shapes, output_dtypes, strict=True)
            )
        }
        loaded = load(source, _call(name, source), {}, self.math)
        return list(run(loaded, buffers, outputs, grid, threadgroup).values())

    def record(self, inputs, **call) -> dict:
        """MLX's record of a call: arguments with name and source, and inputs."""
        key = (tuple(map(_kind, inputs)), repr(call["template"]))
        key += (str(call["output_dtypes"]), call["verbose"])
        if key not in self.records:
            self.records[key] = _record(self.recorder, inputs, call)
        return self.records[key]

    def _buffers(self, inputs, record) -> Iterator[Buffer]:
        """The inputs as MLX binds them, with the shapes and strides that it uses."""
        used, recorded = record["arguments"][8], record["inputs"]
        for name, value, uses, (_, _, dtype) in zip(
            self.input_names, inputs, used, recorded, strict=True
        ):
            if not isinstance(value, mx.array):
                value = mx.array(value, dtype)
            data = to_numpy(value)
            if self.contiguous:
                data = np.require(data, requirements="C")
            yield Buffer(name, data)
            if data.ndim:
                shape, stride, ndim = uses
                if shape:
                    yield Buffer(f"{name}_shape", np.array(data.shape, np.int32))
                if stride:
                    yield Buffer(f"{name}_strides", strides(data))
                if ndim:
                    yield Buffer(f"{name}_ndim", np.array([data.ndim], np.int32))


def _kind(value) -> tuple:
    """The properties of an input on which the generated source depends."""
    if isinstance(value, mx.array):
        return value.dtype, value.ndim == 0, value.size < _MIN_DEVICE_ELEMENTS
    return type(value), mx.array(value).dtype


def _record(recorder, inputs, call) -> dict:
    """Call MLX's kernel inside an export, and return what MLX records."""
    call = {name: value for name, value in call.items() if value is not None}
    arrays = [x for x in inputs if isinstance(x, mx.array)]

    def traced(*placeholders):
        traced_arrays = iter(placeholders)
        return recorder(
            inputs=[
                next(traced_arrays) if isinstance(x, mx.array) else x for x in inputs
            ],
            **call,
        )

    events: list[dict] = []
    # Placeholders are distinct, so an array that is passed twice is recorded twice.
    placeholders = [mx.zeros(a.shape, a.dtype) for a in arrays]
    mx.export_function(events.append, traced, *placeholders)
    found = [e for e in events if e.get("name") == "CustomKernel"]
    if len(found) != 1:
        raise EmulatorError(f"MLX recorded {len(found)} kernels for one call")
    return found[0]


def _call(name: str, source: str) -> str:
    """The kernel with its template arguments."""
    found = re.search(
        rf"^template \[\[host_name\(\"{re.escape(name)}\"\)\]\].*?decltype\((.*?)\) ",
        source,
        re.M,
    )
    return found.group(1) if found else name
