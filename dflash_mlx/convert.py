"""A drafter's checkpoint from any packaging into our own, quantized if wanted.

Owns what may be changed on the way: how the checkpoint is read, its bits, its dtype.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from .errors import OptionError
from .loading import quantize_linear
from .models.drafters import load_folder, packagings, save_folder
from .models.drafters.config import DFlashConfig
from .models.drafters.dflash import DFlash
from .types import require

DTYPES = {
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,
    "float32": mx.float32,
}


@dataclass(frozen=True)
class Changes:
    """What is to become of a drafter; nothing by default.

    Args:
        bits: 4 or 8 for its linear layers.
        dtype: Of everything else, one of DTYPES.
        tap_shift: Added to the target layers that it reads.
        sample_from_anchor: Whether the anchor's slot predicts.
        is_causal: Whether the block is causal in every layer.
    """

    bits: int | None = None
    dtype: str | None = None
    tap_shift: int = 0
    sample_from_anchor: bool | None = None
    is_causal: bool | None = None

    def __post_init__(self):
        require(self.bits in (None, 4, 8), "quantize", "4 or 8", self.bits)
        known = ", ".join(DTYPES)
        fine = self.dtype is None or self.dtype in DTYPES
        require(fine, "dtype", f"one of {known}", self.dtype)

    def read(self, config: DFlashConfig) -> DFlashConfig:
        """A config under the changed reading."""
        taps = tuple(tap + self.tap_shift for tap in config.target_layer_ids)
        require(min(taps) >= 0, "tap_shift", "a shift to layers from 0 on", taps)
        fields = {"target_layer_ids": taps}
        for name in ("sample_from_anchor", "is_causal"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        return replace(config, **fields)


def convert(
    folder: Path,
    out: Path,
    changes: Changes = Changes(),
    origin: str = "",
    judge: Callable[[DFlash], None] | None = None,
) -> None:
    """Read the drafter in `folder`, change it, write it to `out` whole or not at all.

    Args:
        folder: Of any packaging that is known.
        out: A folder that does not exist yet, or is empty.
        changes: What is done to it.
        origin: Its name, kept in config.json.
        judge: Called with the drafter as it was read, and as it will be written.

    Raises:
        OptionError: `out` is not empty, or a change does not apply.
        DFlashError: The drafter does not load.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--out {out} exists already.", "Choose another folder.")
    drafter = load_folder(folder, config=changes.read(packagings.read(folder).config))
    if changes.bits and drafter.bits:
        raise OptionError(
            f"The drafter is quantized to {drafter.bits} bits already.",
            "Convert what it was made from, or leave --bits out.",
        )
    if judge:
        judge(drafter)
    if changes.dtype:
        drafter.set_dtype(DTYPES[changes.dtype])
    if changes.bits:
        quantize_linear(drafter, changes.bits)
    if judge and (changes.bits or changes.dtype):
        judge(drafter)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OptionError(f"--out {out} cannot be written: {error}.") from None
    try:
        save_folder(drafter, work / "new", None, origin or str(folder))
        if out.exists():
            out.rmdir()
        (work / "new").rename(out)
    except (OSError, RuntimeError) as error:  # MLX raises the latter
        raise OptionError(f"--out {out} cannot be written: {error}.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
