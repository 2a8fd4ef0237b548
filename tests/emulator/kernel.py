"""What mx.fast.metal_kernel returns while Metal is emulated.

The source that runs is MLX's own: where there is no Metal, MLX still records a call
while a function is exported, with the whole text that a Mac would compile.
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

# MLX's own, whatever a test puts in its place later.
_metal_kernel = mx.fast.metal_kernel
# Below so many elements MLX hands an array over as `constant`.
_CONSTANT = 8


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
    """The stand-in for mx.fast.metal_kernel."""
    more = {} if compile_options is None else {"compile_options": compile_options}
    recorder = _metal_kernel(
        name=name,
        input_names=input_names,
        output_names=output_names,
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
        **more,
    )
    math = (compile_options or {}).get("math_mode", "safe")
    return MetalKernel(
        recorder, list(input_names), list(output_names), ensure_row_contiguous, math
    )


class MetalKernel:
    """A kernel that runs here when it is called."""

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
        """The inputs as MLX binds them, with shapes and strides where asked for."""
        facts, recorded = record["arguments"][8], record["inputs"]
        for name, value, wanted, (_, _, dtype) in zip(
            self.input_names, inputs, facts, recorded, strict=True
        ):
            if not isinstance(value, mx.array):
                value = mx.array(value, dtype)
            data = to_numpy(value)
            if self.contiguous:
                data = np.require(data, requirements="C")
            yield Buffer(name, data)
            if data.ndim:
                shape, stride, ndim = wanted
                if shape:
                    yield Buffer(f"{name}_shape", np.array(data.shape, np.int32))
                if stride:
                    yield Buffer(f"{name}_strides", strides(data))
                if ndim:
                    yield Buffer(f"{name}_ndim", np.array([data.ndim], np.int32))


def _kind(value) -> tuple:
    """All of an input that the generated source depends on."""
    if isinstance(value, mx.array):
        return value.dtype, value.ndim == 0, value.size < _CONSTANT
    return type(value), mx.array(value).dtype


def _record(recorder, inputs, call) -> dict:
    """Call MLX's kernel inside an export and keep what it recorded."""
    call = {name: value for name, value in call.items() if value is not None}
    arrays = [x for x in inputs if isinstance(x, mx.array)]

    def traced(*placeholders):
        given = iter(placeholders)
        return recorder(
            inputs=[next(given) if isinstance(x, mx.array) else x for x in inputs],
            **call,
        )

    events: list[dict] = []
    # Placeholders are distinct, so an array that is passed twice keeps both places.
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
