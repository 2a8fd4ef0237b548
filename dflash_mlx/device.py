"""Facts about this machine, and the limits that are set on it.

Owns every call to the operating system about hardware. Does not decide what fits.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from threading import Lock, current_thread, main_thread
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_reduce

GIB = 2**30
# Bytes of a page of memory on Apple silicon. MLX allocates whole pages.
PAGE = 2**14
# System settings and files that report thermal pressure, memory pressure and waiting.
MAC_THERMAL = "com.apple.system.thermalpressurelevel"
MAC_MEMORY = "kern.memorystatus_vm_pressure_level"
LINUX_CPU, LINUX_MEMORY = "/proc/pressure/cpu", "/proc/pressure/memory"
LINUX_THROTTLED = (
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
)
# Above these a measurement may be too low: percent of time waiting, megabytes.
MOST_CPU_WAITING, MOST_MEMORY_WAITING, MOST_SWAPPED = 10, 1, 64


def model_bytes(model: nn.Module) -> int:
    """Bytes of a model's arrays."""
    return tree_reduce(
        lambda total, a: total + a.nbytes if isinstance(a, mx.array) else total,
        model,
        0,
    )


def gpu_info() -> dict[str, Any]:
    """Facts about the Metal GPU, whichever device is the default one. The CPU's lack
    most of them."""
    return mx.device_info(mx.gpu)


def memory_bytes() -> int:
    """Memory for models: on a Mac the GPU's recommended working set, elsewhere the
    machine's memory."""
    if mx.metal.is_available():
        return gpu_info()["max_recommended_working_set_size"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def native_bfloat16() -> bool:
    """Whether the default device computes bfloat16 as fast as float16. The GPUs of M1
    and M2 emulate it."""
    if not runs_on_metal():
        return True
    chip = str(gpu_info()["architecture"])
    return not chip.startswith(("applegpu_g13", "applegpu_g14"))


class WiredMemory:
    """The process's wired limit, as large as the weights that are in use.

    There is no room for anything else: buffers that come and go while memory is wired
    have made macOS panic, and so has a limit of all memory (ml-explore/mlx#3186). Uses
    may begin and end in any order, as generators do. The limit of before is set again
    when the last one ends.
    """

    def __init__(self):
        self._lock = Lock()
        self._uses: dict[object, tuple[Any, ...]] = {}  # by a token of each use
        self._limit = self._before = 0

    @contextlib.contextmanager
    def use(self, *models: Any) -> Iterator[None]:
        """Wire the weights of `models` inside the context, if Metal computes.

        Args:
            models: Modules. Anything else has no weights.
        """
        if not runs_on_metal():
            yield
            return
        token = object()
        self._begin(token, models)
        try:
            yield
        finally:
            try:
                # MLX must not change the limit while it computes.
                mx.synchronize()
            finally:
                self._end(token)

    def _begin(self, token, models):
        with self._lock:
            others = [model for use in self._uses.values() for model in use]
            limit = min(wired_bytes(*models, *others), memory_bytes())
            if not self._uses:
                self._before, self._limit = mx.set_wired_limit(limit), limit
            elif limit > self._limit:
                mx.synchronize()
                mx.set_wired_limit(limit)
                self._limit = limit
            self._uses[token] = models

    def _end(self, token):
        with self._lock:
            del self._uses[token]
            if not self._uses:
                mx.set_wired_limit(self._before)


WIRED = WiredMemory()


def evaluate(*models: Any) -> None:
    """Evaluate every array of modules, also those that are no parameters.

    MLX can evaluate pending operations only in the thread that made them, and mlx-lm
    makes the tables of some rotary embeddings without evaluating them.

    Args:
        models: Modules. Anything else is left alone.
    """
    roots = [model for model in models if isinstance(model, nn.Module)]
    attributes = [vars(module) for root in roots for module in root.modules()]
    mx.eval(
        [a for _, a in tree_flatten([roots, attributes]) if isinstance(a, mx.array)]
    )


class Suspensions:
    """Counts how often this process was stopped, as by Ctrl-Z, and went on.

    Attributes:
        count: The number of times since `watch`.
    """

    def __init__(self):
        self.count = 0

    def watch(self) -> None:
        """Begin to count. Only a program's main thread can; elsewhere this does
        nothing."""
        if current_thread() is main_thread():
            signal.signal(signal.SIGCONT, self._resumed)

    def _resumed(self, *_):
        self.count += 1


SUSPENSIONS = Suspensions()


def wired_bytes(*models: Any) -> int:
    """Bytes that the arrays of these models occupy, each model counted once."""
    modules = {id(model): model for model in models if isinstance(model, nn.Module)}
    arrays = [a for m in modules.values() for _, a in tree_flatten(m)]
    return sum(-(-a.nbytes // PAGE) * PAGE for a in arrays if isinstance(a, mx.array))


def runs_on_metal() -> bool:
    """Whether the default device is a Metal GPU, so that Metal kernels can run."""
    return mx.metal.is_available() and mx.default_device() == mx.gpu


def runs_on_cpu() -> bool:
    """Whether the default device is the CPU."""
    return not runs_on_metal() and mx.default_device() == mx.cpu


def wired_limit() -> int | None:
    """Bytes of the GPU's wired limit, if a user of a Mac has set it, else None."""
    if platform.system() != "Darwin":
        return None
    text = run_command("sysctl", "-n", "iogpu.wired_limit_mb")
    return int(text) * 2**20 or None if text.strip().isdigit() else None


def describe() -> dict[str, str | int]:
    """The hardware and the versions that a measurement depends on."""
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
    """The name of the chip."""
    if mx.metal.is_available():
        return gpu_info()["device_name"]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def run_command(*command: str) -> str:
    """What a command prints; an empty string if there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout


def read_text(file: str | Path) -> str:
    """The content of a file; an empty string if it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(file).read_text()
    return ""


def pressure() -> dict[str, float]:
    """What slows this machine down now, as far as it reports that without root.

    Returns:
        On macOS thermal_pressure (0 is none, 4 the most), cpu_speed_limit (percent),
        memory_pressure (1 is none, 2 a warning, 4 critical) and swap_mb. On Linux
        cpu_waiting and memory_waiting (percent of the last ten seconds in which a
        process waited for it) and throttled (how often cores were throttled). Values
        that the machine does not report are left out.
    """
    if platform.system() == "Darwin":
        sources = {
            "thermal_pressure": (r"(\d+)\s*$", "notifyutil", "-g", MAC_THERMAL),
            "cpu_speed_limit": (r"CPU_Speed_Limit\s*=\s*(\d+)", "pmset", "-g", "therm"),
            "memory_pressure": (r"(\d+)", "sysctl", "-n", MAC_MEMORY),
            "swap_mb": (r"used = ([\d.]+)M", "sysctl", "-n", "vm.swapusage"),
        }
        matches = {
            name: re.search(pattern, run_command(*command))
            for name, (pattern, *command) in sources.items()
        }
    else:
        matches = {
            f"{name}_waiting": re.search(r"some avg10=([\d.]+)", read_text(file))
            for name, file in (("cpu", LINUX_CPU), ("memory", LINUX_MEMORY))
        }
    found = {name: float(match[1]) for name, match in matches.items() if match}
    counts = [read_text(file).strip() for file in Path("/").glob(LINUX_THROTTLED)]
    counts = [int(count) for count in counts if count.isdigit()]
    return found | ({"throttled": sum(counts)} if counts else {})


def pressure_warnings(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Why figures measured between two calls of `pressure` may be too low."""

    def worst(name, usual=0.0, of=max):
        return of(before.get(name, usual), after.get(name, usual))

    def increase(name):
        return after.get(name, 0) - before.get(name, 0)

    lines = []
    if level := worst("thermal_pressure"):
        lines.append(f"the system reports thermal pressure, level {level:g} of 4")
    if (limit := worst("cpu_speed_limit", 100, min)) < 100:
        lines.append(f"the system limits the CPU's speed to {limit:g} %")
    if (times := increase("throttled")) > 0:
        lines.append(f"CPU cores were throttled {times:g} times because of heat")
    waiting = worst("memory_waiting")
    if worst("memory_pressure", 1) > 1 or waiting > MOST_MEMORY_WAITING:
        lines.append("the system is short of memory")
    if (swapped := increase("swap_mb")) > MOST_SWAPPED:
        lines.append(f"{swapped:.0f} MB were swapped out")
    # Only before: later the benchmark's own threads may wait for each other.
    if (waiting := before.get("cpu_waiting", 0)) > MOST_CPU_WAITING:
        lines.append(
            f"other programs used the CPU before the start: processes waited for it "
            f"{waiting:.0f} % of the time"
        )
    return lines
