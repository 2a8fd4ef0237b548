"""Launches for tests: one run per seed, with outputs that must be equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import mlx.core as mx
import numpy as np

from .arrays import NUMPY, to_mlx, to_numpy
from .errors import EmulatorError
from .options import current
from .program import Program
from .runner import Buffer, Loaded

# Bytes of outputs before a run: NaN and a large negative number, in turn. Bytes between
# the rows of a strided input.
POISONS = (0xFF, 0xCB)
GAPS = (0xFE, 0xC5)

_last: dict[str, object] = {}
_programs: dict[tuple, Loaded] = {}
_loading = Lock()


@dataclass(frozen=True)
class Output:
    """An output to allocate, filled with `init`, or with poison if that is None."""

    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype
    init: float | None = None

    def blank(self, poison: int) -> np.ndarray:
        if self.init is not None:
            return to_numpy(mx.full(self.shape, self.init, self.dtype))
        array = np.empty(self.shape, NUMPY[self.dtype])
        array.reshape(-1).view(np.uint8)[:] = poison
        return array


def last() -> dict[str, object]:
    """Counts of the last launch (of its last seed), its `call` and `source`."""
    return dict(_last)


def load(
    source: str,
    call: str,
    constants: dict[int, int | float | bool],
    math: str = "safe",
) -> Loaded:
    """The program with the current options, loaded once in this process."""
    options = current()
    key = (source, call, tuple(sorted(constants.items())), math)
    key += (options.contract, options.math, options.checks, options.spaces)
    with _loading:
        if key not in _programs:
            _programs[key] = Loaded(Program(source, call, constants, options, math))
        return _programs[key]


def run(
    loaded: Loaded,
    inputs: dict[int, Buffer],
    outputs: dict[int, Output],
    grid: Sequence[int],
    threadgroup: Sequence[int],
) -> dict[int, mx.array]:
    """Run once per seed, with alternating poison and guards.

    Raises:
        EmulatorError: A run failed, or two runs differ.
    """
    options = current()
    strided = not all(b.data.flags.c_contiguous for b in inputs.values())
    runs = []
    for turn, seed in enumerate(options.seeds):
        buffers = dict(inputs)
        for index, out in outputs.items():
            blank = out.blank(POISONS[turn % 2])
            buffers[index] = Buffer(out.name, blank, True, out.init is None)
        results, stats = loaded.launch(
            *(buffers, grid, threadgroup, options),
            seed=seed,
            gap=GAPS[turn % 2],
            at_end=turn % 2 == 0,
        )
        runs.append(results)
        for index, out in outputs.items():
            if problem := _difference(out, runs[0][index], results[index], strided):
                raise EmulatorError(
                    f"{loaded.program.call}: output '{out.name}' {problem} (seeds "
                    f"{options.seeds[0]} and {seed})"
                )
    _last.clear()
    _last.update(stats, call=loaded.program.call, source=loaded.program.source)
    return {i: to_mlx(runs[0][i], out.dtype) for i, out in outputs.items()}


def _difference(
    out: Output, first: np.ndarray, other: np.ndarray, strided: bool
) -> str:
    """How two runs differ, as a predicate; "" if they are equal."""
    a, b = _elements(first), _elements(other)
    differ = np.flatnonzero((a != b).any(axis=1))
    if not differ.size:
        return ""
    at = differ[0]
    why = "depends on the order of threads"
    if strided:
        why += " or on what lies between the rows of an input"
    if out.init is None and (a[at] == POISONS[0]).all() and (b[at] == POISONS[1]).all():
        why = "is not written everywhere"
    return f"{why}: {differ.size} of {len(a)} elements, first at {at}"


def _elements(array: np.ndarray) -> np.ndarray:
    """The bytes of an array, one row per element."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), -1) if len(flat) else flat[:, None]


def run_source(
    source: str,
    call: str,
    buffers: dict[int, mx.array | np.ndarray],
    outputs: dict[int, tuple[tuple[int, ...], mx.Dtype]],
    grid: Sequence[int] | None = None,
    threadgroup: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
    function_constants: dict[int, int | float | bool] | None = None,
) -> dict[int, mx.array]:
    """Run any kernel, for example one in MLX's headers.

    Args:
        source: Metal source that contains or includes the kernel.
        call: Its name with template arguments: `sdpa_vector<half, 64, 64>`.
        buffers: Inputs by buffer index, with their strides.
        outputs: Shape and dtype by buffer index.
        grid: Threads in each direction; or give `groups`.
        threadgroup: Threads of a threadgroup in each direction.
        groups: Threadgroups in each direction.
        function_constants: Their values by index; 0 if not given.
    """
    loaded = load(source, call, function_constants or {})
    name = loaded.program.name
    if groups is not None:
        grid = [a * b for a, b in zip(groups, threadgroup, strict=True)]
    return run(
        loaded,
        {i: Buffer(name(i), to_numpy(a)) for i, a in buffers.items()},
        {i: Output(name(i), tuple(s), d) for i, (s, d) in outputs.items()},
        grid,
        threadgroup,
    )
