"""A stand-in for a Mac: what MLX says and does there, on a machine without Metal.

Kernels are not part of it; tests/emulator runs them. mx.device_info answers for the
device that it is asked about, mx.set_wired_limit refuses what MLX refuses, and the
default device stays the CPU unless a test says otherwise.
"""

from __future__ import annotations

import mlx.core as mx
import pytest

# mx.device_info(mx.gpu) of an M3 Max with 64 GB.
GPU = {
    "architecture": "applegpu_g15s",
    "device_name": "Apple M3 Max",
    "max_buffer_length": 38_654_705_664,
    "max_recommended_working_set_size": 51_539_607_552,
    "memory_size": 68_719_476_736,
    "resource_limit": 499_000,
}
# The CPU's has nothing else.
CPU = {"architecture": "arm64", "device_name": "Apple M3 Max"}


class Clock:
    """Seconds that pass only when a test says so, in place of the module `time`."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self) -> float:
        """The time in seconds."""
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Mac:
    """Stands for a Mac as MLX sees it.

    Args:
        gpu: What mx.device_info(mx.gpu) returns beside GPU.

    Attributes:
        wired: The wired limit in bytes.
        limits: Every limit that was set, in order.
        clock: A clock for code that reads time.
        default: The default device.
    """

    def __init__(self, **gpu: str | int):
        self.gpu = GPU | gpu
        self.wired = 0
        self.limits: list[int] = []
        self.clock = Clock()
        self.default = mx.Device(mx.cpu)

    def device_info(self, device: mx.Device | mx.DeviceType | None = None) -> dict:
        """The facts about a device; the default one if none is given."""
        device = self.default if device is None else device
        kind = device.type if isinstance(device, mx.Device) else device
        return dict(self.gpu if kind == mx.gpu else CPU)

    def set_wired_limit(self, limit: int) -> int:
        """Set the limit as MLX does, which refuses more than the recommended size."""
        if limit > self.gpu["max_recommended_working_set_size"]:
            raise ValueError(
                "[metal::set_wired_limit] Setting a wired limit larger than the "
                "maximum working set size is not allowed."
            )
        old, self.wired = self.wired, limit
        self.limits.append(limit)
        return old

    def install(self, patch: pytest.MonkeyPatch) -> Mac:
        """Put this Mac in the place of the real machine. Operations run on the CPU."""
        patch.setattr(mx.metal, "is_available", lambda: True)
        patch.setattr(mx, "device_info", self.device_info)
        patch.setattr(mx, "set_wired_limit", self.set_wired_limit)
        return self

    def use_gpu(self, patch: pytest.MonkeyPatch) -> None:
        """Make the GPU the default device, in name only."""
        self.default = mx.Device(mx.gpu)
        patch.setattr(mx, "default_device", lambda: self.default)
