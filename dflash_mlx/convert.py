"""Convert a drafter's checkpoint to our format, quantized on request.

Owns the changes that can be made on the way: how the config is read, bits and dtype.
Does not know the packagings (models/drafters).
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
    """Changes to a drafter. None of them by default.

    Args:
        bits: Bits (4 or 8) of the linear layers.
        dtype: Type of everything else, one of DTYPES.
        tap_shift: Number added to the index of each tap.
        sample_from_anchor: Whether the anchor's row predicts a draft.
        is_causal: Whether attention within the block is causal in every layer.

    Raises:
        OptionError: A value is out of range.
    """

    bits: int | None = None
    dtype: str | None = None
    tap_shift: int = 0
    sample_from_anchor: bool | None = None
    is_causal: bool | None = None

    def __post_init__(self):
        require(self.bits in (None, 4, 8), "quantize", "4 or 8", self.bits)
        known = ", ".join(DTYPES)
        valid = self.dtype is None or self.dtype in DTYPES
        require(valid, "dtype", f"one of {known}", self.dtype)

    def apply_to(self, config: DFlashConfig) -> DFlashConfig:
        """A copy of a config with the changes.

        Raises:
            OptionError: A tap would be negative.
        """
        taps = tuple(tap + self.tap_shift for tap in config.target_layer_ids)
        least = -min(config.target_layer_ids)
        require(min(taps) >= 0, "tap_shift", f"{least} or more", self.tap_shift)
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
    evaluate: Callable[[DFlash], None] | None = None,
) -> None:
    """Read the drafter in `folder`, change it, and write it to `out` atomically.

    Args:
        folder: A drafter in a known packaging.
        out: A folder that does not exist, or is empty.
        changes: Changes to the drafter.
        origin: The drafter's name, which config.json records. By default the folder.
        evaluate: Called with the drafter as it was read and, if bits or dtype change,
            as it will be written.

    Raises:
        OptionError: `out` is not empty or cannot be written, or a change is impossible.
        DFlashError: The drafter cannot be loaded.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--out {out} already exists.", "Choose another folder.")
    drafter = load_folder(
        folder, config=changes.apply_to(packagings.read(folder).config)
    )
    if changes.bits and drafter.bits:
        raise OptionError(
            f"The drafter is already quantized to {drafter.bits} bits.",
            "Convert the original drafter, or leave --bits out.",
        )
    if evaluate:
        evaluate(drafter)
    if changes.dtype:
        drafter.set_dtype(DTYPES[changes.dtype])
    if changes.bits:
        quantize_linear(drafter, changes.bits)
    if evaluate and (changes.bits or changes.dtype):
        evaluate(drafter)
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
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError
        raise OptionError(f"--out {out} cannot be written: {error}.") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
