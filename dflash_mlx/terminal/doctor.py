"""`doctor`: this machine as MLX sees it."""

from __future__ import annotations

import json
from collections import Counter

import mlx.core as mx

from .. import device
from ..metal.verdicts import Verdicts
from .streams import print_notice

NO_BFLOAT16 = "emulated by this GPU: drafters run in float16 or float32"


def run(as_json: bool = False) -> None:
    """Print the description of this machine."""
    facts = examine()
    if as_json:
        print(json.dumps(facts))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):{width}}  {value}")


def examine() -> dict[str, str]:
    """Facts about this machine, in words."""
    facts = device.describe()
    return {
        "chip": f"{facts['processor']}, {facts['cores']} cores",
        "system": f"{facts['machine']}, Python {facts['python']}",
        "versions": ", ".join(
            f"{name} {facts[name.replace('-', '_')]}"
            for name in ("dflash-mlx", "mlx", "mlx-lm")
        ),
        "metal": metal(),
        "memory": f"{device.memory_bytes() / device.GIB:.1f} GiB for models",
        "wired_limit": wired_limit(),
        "bfloat16": "native" if device.native_bfloat16() else NO_BFLOAT16,
        "kernels": kernels(),
    }


def metal() -> str:
    """The GPU, if there is one."""
    if not mx.metal.is_available():
        return "not available: MLX runs on the CPU or on CUDA, kernels are off"
    info = device.gpu_info()
    return f"{info['architecture']}, {info['memory_size'] / device.GIB:.1f} GiB shared"


def wired_limit() -> str:
    """How much memory the system lets the GPU wire."""
    limit = device.wired_limit()
    if limit is None:
        return "the system's default; decoding wires the weights of the pair"
    return f"{limit / device.GIB:.1f} GiB, set with iogpu.wired_limit_mb"


def kernels() -> str:
    """The number of operations that each kernel was chosen for."""
    if not mx.metal.is_available():
        return "off"
    verdicts = Verdicts.of_this_machine(print_notice).all()
    if not verdicts:
        return "nothing measured yet; loading a model does"
    counts = Counter(verdict.choice for verdict in verdicts.values())
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
