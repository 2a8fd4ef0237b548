"""Every question to the machine, and every limit set on it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_reduce

GIB = 2**30
# Weights need company: caches, activations, the drafter.
HEADROOM = 4 * GIB


def model_bytes(model: nn.Module) -> int:
    """Bytes of all arrays of a model."""
    return tree_reduce(
        lambda total, a: total + a.nbytes if isinstance(a, mx.array) else total,
        model,
        0,
    )


def memory_bytes() -> int:
    """Memory that a model may take: the GPU's recommended working set on a Mac, the
    machine's memory elsewhere."""
    if mx.metal.is_available():
        return mx.device_info()["max_recommended_working_set_size"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def native_bfloat16() -> bool:
    """Whether bfloat16 is computed in hardware; the GPUs of M1 and M2 emulate it."""
    if not mx.metal.is_available():
        return True
    chip = str(mx.device_info()["architecture"])
    return not chip.startswith(("applegpu_g13", "applegpu_g14"))


@contextlib.contextmanager
def wired(model: nn.Module) -> Iterator[None]:
    """Keep a model's weights wired while it generates, on a Mac.

    The limit is the weights and some headroom, not all the machine has: a larger
    one has hung macOS (ml-explore/mlx#3186).
    """
    if not mx.metal.is_available():
        yield
        return
    limit = min(model_bytes(model) + HEADROOM, memory_bytes())
    old = mx.set_wired_limit(limit)
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(old)


def runs_on_metal() -> bool:
    """Whether arrays are computed by Metal, where its kernels run."""
    return mx.metal.is_available() and mx.default_device() == mx.gpu


def wired_limit() -> int | None:
    """Bytes that the system lets the GPU wire, where a user has set it; None
    elsewhere."""
    if platform.system() != "Darwin":
        return None
    command = ["sysctl", "-n", "iogpu.wired_limit_mb"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return int(told) * 2**20 or None if told.strip().isdigit() else None


def describe() -> dict[str, str | int]:
    """The machine and the versions that a measurement depends on."""
    return {
        "device": str(mx.default_device()),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0))
        if platform.system() == "Linux"
        else os.cpu_count() or 0,
        "memory_gib": round(memory_bytes() / GIB, 1),
        "python": platform.python_version(),
        "mlx": version("mlx"),
        "mlx_lm": version("mlx-lm"),
        "dflash_mlx": version("dflash-mlx"),
    }


def processor() -> str:
    """The chip's name."""
    if mx.metal.is_available():
        return mx.device_info()["device_name"]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
