"""One run of a compiled program, with its buffers between guard pages.

Owns the executor's C interface. The executor has global state, so one launch runs at a
time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock

import numpy as np

from .compiler import executor
from .errors import EmulatorError
from .options import Options
from .program import Program

THREADGROUP_MEMORY = 32 * 1024
# Bytes on either side of a buffer that cannot be accessed.
GUARD = 64 << 20
_LOCK = Lock()


def _structure(**fields: type) -> type[ctypes.Structure]:
    return type("Structure", (ctypes.Structure,), {"_fields_": list(fields.items())})


# As in runtime/machine.h and runtime/executor.h.
_OPTION_NAMES = "seed simd_order mma_order exp_mode ftz cpu_limit_ms max_groups".split()
_COUNT_NAMES = """groups threads switches barriers simd_ops partial inactive_reads
    accesses shared_bytes threadgroup_bytes nanoseconds""".split()
_Options = _structure(**dict.fromkeys(_OPTION_NAMES, ctypes.c_uint32))
_Stats = _structure(**dict.fromkeys(_COUNT_NAMES, ctypes.c_uint64))
_Range = _structure(low=ctypes.c_void_p, high=ctypes.c_void_p)
_Buffer = _structure(
    pointer=ctypes.c_void_p,
    low=ctypes.c_void_p,
    bytes=ctypes.c_uint64,
    writable=ctypes.c_uint32,
    complete=ctypes.c_uint32,
    name=ctypes.c_char_p,
)
_Launch = _structure(
    entry=ctypes.c_void_p,
    buffers=ctypes.POINTER(_Buffer),
    count=ctypes.c_uint32,
    watched=ctypes.c_uint32,
    shared=_Range,
    image=_Range,
    grid=ctypes.c_uint32 * 3,
    threadgroup=ctypes.c_uint32 * 3,
)


@dataclass(frozen=True)
class Buffer:
    """One buffer of a launch.

    Args:
        name: Its name in messages.
        data: Its content, an array with the strides that the kernel gets.
        writable: Whether it is an output.
        complete: Whether the kernel must write every byte.
    """

    name: str
    data: np.ndarray
    writable: bool = False
    complete: bool = False


@cache
def _executor() -> ctypes.CDLL:
    library = ctypes.CDLL(str(executor()), mode=ctypes.RTLD_GLOBAL)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.emu_allocate.restype = pointer
    library.emu_allocate.argtypes = [
        *(size, ctypes.c_int, size, size),
        *(ctypes.POINTER(pointer), ctypes.POINTER(size)),
    ]
    library.emu_protect.argtypes = [pointer, size, size]
    library.emu_free.argtypes = [pointer, size]
    library.emu_launch.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, size]
    return library


class _Guarded:
    """A copy of an array's memory between guard pages.

    Bytes between the rows of a strided array hold `gap`, because the kernel must not
    read them.
    """

    def __init__(self, buffer: Buffer, at_end: bool, gap: int):
        data = buffer.data
        steps = [(n - 1) * s for n, s in zip(data.shape, data.strides, strict=True)]
        self.offset = -sum(min(0, step) for step in steps) if data.size else 0
        extent = sum(map(abs, steps)) + data.itemsize if data.size else 0
        self.bytes = extent
        self.region, self.size = ctypes.c_void_p(), ctypes.c_size_t()
        self.start = _executor().emu_allocate(
            *(extent, int(at_end), 16, GUARD),
            *(ctypes.byref(self.region), ctypes.byref(self.size)),
        )
        if not self.start:
            raise EmulatorError("there is no memory for a guarded buffer")
        self.memory = (ctypes.c_uint8 * max(extent, 1)).from_address(self.start)
        if data.size:
            if extent != data.nbytes:
                ctypes.memset(self.start, gap, extent)
            self._as_array(data)[...] = data
        if not buffer.writable:
            _executor().emu_protect(self.region, self.size, GUARD)

    def _as_array(self, data: np.ndarray) -> np.ndarray:
        return np.ndarray(
            data.shape, data.dtype, self.memory, self.offset, data.strides
        )

    def content(self, data: np.ndarray) -> np.ndarray:
        """A copy of the memory, in the shape of `data`."""
        return self._as_array(data).copy() if data.size else data.copy()

    def free(self) -> None:
        _executor().emu_free(self.region, self.size)


class Loaded:
    """A program's library, loaded into this process."""

    def __init__(self, program: Program):
        _executor()
        self.program = program
        self.library = ctypes.CDLL(str(program.library))
        self.entry = ctypes.cast(self.library.emu_entry, ctypes.c_void_p)
        self.shared, self.image = _Range(), _Range()
        self.library.emu_memory(ctypes.byref(self.shared), ctypes.byref(self.image))
        used = (self.shared.high or 0) - (self.shared.low or 0)
        if used > THREADGROUP_MEMORY:
            raise EmulatorError(
                f"{program.call}: {used} bytes of threadgroup memory; Metal allows "
                f"{THREADGROUP_MEMORY}"
            )

    def launch(
        self,
        buffers: dict[int, Buffer],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        options: Options,
        seed: int,
        gap: int = 0xFE,
        at_end: bool = True,
    ) -> tuple[dict[int, np.ndarray], dict[str, int]]:
        """Run the program once.

        Args:
            buffers: Inputs and outputs by index.
            grid: Threads in each direction.
            threadgroup: Threads of a threadgroup in each direction.
            options: See Options.
            seed: Chooses the order of threads.
            gap: The byte between the rows of strided inputs.
            at_end: Place buffers right before the guard page after them, else right
                after the one before them.

        Returns:
            The outputs by index, and counts of events.

        Raises:
            EmulatorError: The kernel has a fault.
        """
        guarded: dict[int, _Guarded] = {}
        with _LOCK:
            try:
                for index, buffer in buffers.items():
                    guarded[index] = _Guarded(buffer, at_end, gap)
                stats = self._run(buffers, guarded, grid, threadgroup, options, seed)
                outputs = {
                    index: guarded[index].content(buffer.data)
                    for index, buffer in buffers.items()
                    if buffer.writable
                }
            finally:
                for memory in guarded.values():
                    memory.free()
        return outputs, stats

    def _run(self, buffers, guarded, grid, threadgroup, options, seed):
        table = (_Buffer * (max(buffers, default=0) + 1))()
        for index, memory in guarded.items():
            buffer = buffers[index]
            table[index] = _Buffer(
                memory.start + memory.offset,
                memory.start,
                memory.bytes,
                buffer.writable,
                buffer.complete,
                buffer.name.encode(),
            )
        launch = _Launch(
            entry=self.entry,
            buffers=table,
            count=len(table),
            watched=self.program.checks,
            shared=self.shared,
            image=self.image,
            grid=tuple(grid),
            threadgroup=tuple(threadgroup),
        )
        values = {"seed": seed} | {k: getattr(options, k) for k in _OPTION_NAMES[1:]}
        stats, message = _Stats(), ctypes.create_string_buffer(4096)
        failed = _executor().emu_launch(
            *map(ctypes.byref, (launch, _Options(**values), stats)),
            message,
            len(message),
        )
        if failed:
            raise EmulatorError(f"{self.program.call}: {message.value.decode()}")
        return {name: getattr(stats, name) for name in _COUNT_NAMES}
