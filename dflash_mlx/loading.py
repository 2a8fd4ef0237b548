"""Load a target, its drafter and the tokenizer.

Owns the order of the steps: find the files, check the configs, check the memory, read
the weights. Does not know the Hub (hub/download.py), which drafter belongs to which
target (hub/find.py) or how mlx-lm reads a target (target_files.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tokenizer_utils import TokenizerWrapper

from . import device
from .errors import (
    ConfigError,
    NotEnoughMemoryError,
    OptionError,
    PairError,
    UnsupportedError,
    WeightsError,
)
from .hub import registry
from .hub.config import read_config
from .hub.find import find_drafter, folder_of_drafter, folder_of_target
from .hub.folder import weight_bytes
from .metal.dispatch import check_mode
from .models.drafters import load_folder
from .models.drafters import read_config as read_draft_config
from .models.drafters.config import DFlashConfig
from .models.drafters.dflash import DFlash
from .pair import Pair, check_fit, check_taps
from .target_files import apply_adapters, load_target, read_tokenizer
from .tuning.calibrate import calibrate
from .tuning.draft_dtype import choose_draft_dtype
from .tuning.kernels import ignore, install_kernels
from .tuning.remember import remember
from .types import require

GROUP_SIZES = (64, 32)


def load(
    model: str | Path = registry.TINY,
    draft: str | Path | None = None,
    *,
    revision: str | None = None,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    draft_window: int | None = None,
    adapter_path: str | Path | None = None,
    trust_remote_code: bool = False,
    kernels: str = "auto",
    calibration: bool = True,
    wired: bool = True,
    notice: Callable[[str], None] = ignore,
    status: Callable[[str], None] = ignore,
) -> tuple[Pair, TokenizerWrapper]:
    """Load a target, the drafter that fits it, and the tokenizer.

    Args:
        model: Alias, Hub id or folder of the target.
        draft: Alias, Hub id or folder of the drafter. None finds the published one
            for the target; "none" loads no drafter.
        revision: Branch, tag or commit of the target's repository.
        quantize, draft_quantize: Bits (4 or 8) to quantize the target and the drafter
            to after loading.
        draft_window: Number of committed rows that the drafter sees; None is the
            number that it was trained with, 0 is all.
        adapter_path: Folder of LoRA adapters for the target, made by mlx-lm.
        trust_remote_code: Run code that comes with the model or tokenizer.
        kernels: "auto" uses Metal kernels where they are faster on this machine, "off"
            uses none. "exact" makes each row independent of the other rows of its
            block, so that drafting gives the bits of plain decoding. Kernels have no
            gradients.
        calibration: Measure the speed of this pair's passes where that is not stored
            yet, and where it matters the dtype that its drafter computes in (see
            tuning/draft_dtype.py). Otherwise costs are assumed, and a bfloat16 drafter
            computes in float32 on M1 and M2.
        wired: Keep the weights in wired memory while text is generated, on a Mac.
        notice: Called with a line of text about kernels and measurements.
        status: Called with a line of text whenever the next measurement begins.

    Returns:
        The pair and mlx-lm's tokenizer. Without a usable drafter the pair uses plain
        decoding, and `pair.reason` says why.

    Raises:
        DFlashError: Something is missing, broken or does not fit. A drafter that is
            named in `draft` is always used or an error.
    """
    check_options(quantize, draft_quantize, draft_window, kernels)
    model, draft = str(model), draft and str(draft)
    folder = folder_of_target(model, revision)
    config = read_config(folder)
    draft_folder, reason = find_fitting_drafter(config, model, folder, draft)
    check_memory(folder, draft_folder)
    target, config = load_target(folder, config, quantize, trust_remote_code)
    if adapter_path:
        target = apply_adapters(target, adapter_path)
    tokenizer = read_tokenizer(folder, config, trust_remote_code)
    pair = Pair.of(target, None, config, reason)
    if draft_folder:
        options = {"quantize": draft_quantize, "window": draft_window}
        pair = add_drafter(pair, draft_folder, options, required=bool(draft))
    pair = replace(pair, wire=wired)
    if pair.drafter is not None:
        choose_draft_dtype(
            pair, tokenizer, notice, measuring=calibration, status=status
        )
    pair = install_kernels(pair, kernels, notice, status=status)
    calibrate(pair, notice, measuring=calibration, status=status)
    return remember(pair, notice), tokenizer


def find_fitting_drafter(
    config: dict[str, Any], model: str, folder: Path, draft: str | None
) -> tuple[Path | None, str]:
    """As hub.find.find_drafter, with a check of the drafter's config.

    Raises:
        ConfigError, PairError: The drafter was named and its config is wrong, or does
            not fit the target's.
    """
    draft_folder, reason = find_drafter(config, model, folder, draft)
    if draft_folder:
        try:
            check_pair(config, read_draft_config(draft_folder))
        except (ConfigError, PairError) as error:
            if draft:
                raise
            return None, f"its drafter cannot be used: {error.message}"
    return draft_folder, reason


def add_drafter(
    pair: Pair, folder: Path, options: dict[str, int | None], required: bool
) -> Pair:
    """Load a drafter into a pair.

    Args:
        pair: A pair without a drafter.
        folder: The drafter's.
        options: `quantize` and `window` of load_drafter.
        required: Raise an error if the drafter cannot be used; otherwise the pair is
            returned without it, with the reason.
    """
    try:
        drafter = load_drafter(folder, **options)
        check_numbers(pair.target.numbers, drafter.config)
        return Pair.of(pair.model, drafter, pair.target.config)
    except (PairError, UnsupportedError, WeightsError) as error:
        if required:
            raise
        return replace(pair, reason=error.message)


def check_options(
    quantize: int | None = None,
    draft_quantize: int | None = None,
    draft_window: int | None = None,
    kernels: str = "auto",
) -> None:
    """Raise OptionError for values that are wrong for every model.

    Callers check them before a download.

    Args:
        quantize, draft_quantize, draft_window, kernels: As in load.
    """
    for option, bits in (("quantize", quantize), ("draft_quantize", draft_quantize)):
        require(bits in (None, 4, 8), option, "4 or 8", bits)
    window = draft_window
    require(window is None or window >= 0, "draft_window", "0 or above", window)
    check_mode(kernels)


def load_drafter(
    folder_or_id: str | Path,
    *,
    quantize: int | None = None,
    window: int | None = None,
    revision: str | None = None,
) -> DFlash:
    """Load a drafter.

    Args:
        folder_or_id: Folder, Hub id, or the alias of its target.
        quantize: Bits (4 or 8) of the linear layers; None keeps them.
        window: Number of committed rows that it sees; None is the number that it was
            trained with, 0 is all.
        revision: Branch, tag or commit of the repository.

    Raises:
        DFlashError: The drafter is missing, incomplete, or of an unknown kind.
    """
    drafter = load_folder(folder_of_drafter(str(folder_or_id), revision), window)
    if quantize and drafter.bits:
        raise OptionError(
            f"The drafter {folder_or_id} is already quantized.",
            "Leave draft_quantize out.",
        )
    if quantize:
        quantize_linear(drafter, quantize)
    return drafter


def quantize_linear(model: nn.Module, bits: int) -> None:
    """Quantize the linear layers of a model in place.

    Groups have 64 columns, or 32 where the number of columns is not a multiple of 64.
    A layer that fits neither is kept as it is.
    """

    def predicate(path, module):
        if not isinstance(module, nn.Linear):
            return False
        columns = module.weight.shape[1]
        size = next((size for size in GROUP_SIZES if columns % size == 0), None)
        return {"group_size": size, "bits": bits} if size else False

    nn.quantize(model, bits=bits, class_predicate=predicate)
    mx.eval(model.parameters())


def check_pair(config: dict[str, Any], drafter: DFlashConfig) -> None:
    """Check that a drafter fits a target, from their configs.

    Args:
        config: The target's config.json. Sizes that it leaves out are checked after
            loading.
        drafter: The drafter's config.

    Raises:
        PairError: Their sizes differ, or a tap is out of range.
    """
    numbers = registry.numbers_of(config)
    check_numbers({k: v for k, v in numbers.items() if v is not None}, drafter)


def check_numbers(target: dict[str, Any], drafter: DFlashConfig) -> None:
    """Check that a drafter fits a target's sizes.

    Args:
        target: hidden_size, num_layers and vocab_size, as far as they are known.
        drafter: The drafter's config.

    Raises:
        PairError: The sizes differ, or a tap is out of range.
    """
    layers = target.get("num_layers")
    check_fit(
        {
            "hidden_size": drafter.target_hidden_size or drafter.hidden_size,
            "num_layers": drafter.num_target_layers or layers,
            "vocab_size": drafter.vocab_size,
            "mask_token_id": drafter.mask_token_id,
        },
        target,
    )
    if layers is not None:
        check_taps(drafter.target_layer_ids, layers)


def check_memory(folder: Path, draft_folder: Path | None) -> None:
    """Raise NotEnoughMemoryError if the weight files are larger than the memory.

    The sizes of the files count even if the weights are quantized after loading, since
    they are read as they are.
    """
    sizes = {"the target": weight_bytes(folder)}
    if draft_folder:
        sizes["the drafter"] = weight_bytes(draft_folder)
    check_sizes(sizes)


def check_sizes(sizes: dict[str, int]) -> None:
    """Raise NotEnoughMemoryError if weights need more than this machine's memory.

    Args:
        sizes: Bytes of the weights, by what they belong to.
    """
    have = device.memory_bytes()
    if sum(sizes.values()) > have:
        parts = [
            f"{size / device.GIB:.1f} GiB for {who}" for who, size in sizes.items()
        ]
        raise NotEnoughMemoryError(
            f"The weights need {' and '.join(parts)}, but only "
            f"{have / device.GIB:.1f} GiB of memory are available.",
            "Choose a smaller model or one with fewer bits per weight.",
        )
