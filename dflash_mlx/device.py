"""Every question to the machine, and every limit set on it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_reduce

GIB = 2**30
# Weights need company: caches, activations, the drafter.
HEADROOM = 4 * GIB
# What tells of heat and want.
THERMAL = "com.apple.system.thermalpressurelevel"
PRESSURE = "kern.memorystatus_vm_pressure_level"
CPU_WAITING, MEMORY_WAITING = "/proc/pressure/cpu", "/proc/pressure/memory"
THROTTLED = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
# Percent of waiting, and megabytes of swap, that a measurement can stand.
WAITING, SWAPPED = {"cpu": 10, "memory": 1}, 64


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
    told = output("sysctl", "-n", "iogpu.wired_limit_mb")
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


def output(*command: str) -> str:
    """What a command prints; nothing where there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout


def strain() -> dict[str, float]:
    """What slows this machine down now, in the numbers that it tells without root.

    Returns:
        On macOS thermal_pressure (0 is none, 4 the most), cpu_speed_limit (percent),
        memory_pressure (1 is none, 2 a warning, 4 critical) and swap_mb. On Linux
        cpu_waiting and memory_waiting (percent of the last ten seconds in which
        something waited for it) and throttled (how often cores were). What a machine
        does not tell is left out.
    """
    if platform.system() == "Darwin":
        asked = {
            "thermal_pressure": (r"(\d+)\s*$", "notifyutil", "-g", THERMAL),
            "cpu_speed_limit": (r"CPU_Speed_Limit\s*=\s*(\d+)", "pmset", "-g", "therm"),
            "memory_pressure": (r"(\d+)", "sysctl", "-n", PRESSURE),
            "swap_mb": (r"used = ([\d.]+)M", "sysctl", "-n", "vm.swapusage"),
        }
        found = {
            name: re.search(pattern, output(*command))
            for name, (pattern, *command) in asked.items()
        }
    else:
        found = {
            f"{name}_waiting": re.search(r"some avg10=([\d.]+)", content(file))
            for name, file in (("cpu", CPU_WAITING), ("memory", MEMORY_WAITING))
        }
    told = {name: float(match[1]) for name, match in found.items() if match}
    counts = [content(file).strip() for file in Path("/").glob(THROTTLED)]
    counts = [int(count) for count in counts if count.isdigit()]
    return told | ({"throttled": sum(counts)} if counts else {})


def content(file: str | Path) -> str:
    """A file's text; nothing where it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(file).read_text()
    return ""


def complaints(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Why figures that were measured between two looks at `strain` may be too low."""

    def most(name, usual=0.0, of=max):
        return of(before.get(name, usual), after.get(name, usual))

    lines, swapped = [], after.get("swap_mb", 0) - before.get("swap_mb", 0)
    if level := most("thermal_pressure"):
        lines.append(f"the system reports thermal pressure, level {level:g} of 4")
    if (limit := most("cpu_speed_limit", 100, min)) < 100:
        lines.append(f"the system limits the CPU's speed to {limit:g} %")
    if (times := after.get("throttled", 0) - before.get("throttled", 0)) > 0:
        lines.append(f"cores were throttled {times:g} times for their temperature")
    if most("memory_pressure", 1) > 1 or most("memory_waiting") > WAITING["memory"]:
        lines.append("the system is short of memory")
    if swapped > SWAPPED:
        lines.append(f"{swapped:.0f} MB went to swap")
    # Later its own threads may wait for each other.
    if (waiting := before.get("cpu_waiting", 0)) > WAITING["cpu"]:
        lines.append(
            f"other programs wanted the CPU before it began: they waited {waiting:.0f} "
            "% of the time"
        )
    return lines
