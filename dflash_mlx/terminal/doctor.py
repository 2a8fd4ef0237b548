"""`doctor`: this machine as MLX sees it, and what decoding can count on."""

from __future__ import annotations

import json
from collections import Counter

import mlx.core as mx

from .. import device
from ..metal.dispatch import machine
from ..metal.verdicts import Verdicts, default_file


def run(as_json: bool = False) -> None:
    """Print what is found."""
    found = examine()
    if as_json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name.replace('_', ' '):{width}}  {value}")


def examine() -> dict[str, str]:
    """Every question, and its answer in words."""
    told = device.describe()
    return {
        "chip": f"{told['processor']}, {told['cores']} cores",
        "system": f"{told['machine']}, Python {told['python']}",
        "versions": ", ".join(
            f"{name} {told[name.replace('-', '_')]}"
            for name in ("dflash-mlx", "mlx", "mlx-lm")
        ),
        "metal": metal(),
        "memory": f"{device.memory_bytes() / device.GIB:.1f} GiB for models",
        "wired_limit": wired(),
        "bfloat16": "native" if device.native_bfloat16() else NO_BFLOAT16,
        "kernels": kernels(),
    }


NO_BFLOAT16 = "emulated by this GPU: drafters run in float16 or float32"


def metal() -> str:
    """The GPU, or that there is none."""
    if not mx.metal.is_available():
        return "not available: MLX runs on the CPU or on CUDA, kernels are off"
    info = mx.device_info()
    return f"{info['architecture']}, {info['memory_size'] / device.GIB:.1f} GiB shared"


def wired() -> str:
    """What the system lets the GPU wire."""
    limit = device.wired_limit()
    if limit is None:
        return "the system's own; while decoding, the weights and 4 GiB are asked for"
    return f"{limit / device.GIB:.1f} GiB, set with iogpu.wired_limit_mb"


def kernels() -> str:
    """The verdicts of this machine, counted."""
    if not mx.metal.is_available():
        return "off"
    verdicts = Verdicts(machine(), default_file()).all()
    if not verdicts:
        return "nothing measured yet: that happens when a model is first loaded"
    counts = Counter(verdict.choice for verdict in verdicts.values())
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
