"""Names and folders to a Pair and its tokenizer.

Owns the order of things: files first, then the checks that need only config.json,
then memory, then weights. What a repository is, is download.py's; which drafter belongs
to which target, registry.py's.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_adapters, load_model, load_tokenizer, quantize_model

from . import device
from .errors import (
    ConfigError,
    MissingFilesError,
    NotEnoughMemoryError,
    OptionError,
    PairError,
    UnsupportedError,
    WeightsError,
)
from .hub import download, registry
from .hub.find import find_drafter, folder_of_drafter, folder_of_target, read_config
from .metal.dispatch import check_mode
from .models.drafters import load_folder
from .models.drafters import read_config as read_draft_config
from .models.drafters.checkpoint import brief
from .models.drafters.config import DFlashConfig
from .models.drafters.dflash import DFlash
from .pair import Pair, check_fit, check_taps
from .tuning.calibrate import calibrate
from .tuning.draft_dtype import choose_draft_dtype
from .tuning.kernels import install_kernels, quiet
from .types import require

GROUP_SIZES = (64, 32)


def load(
    model: str = registry.TINY,
    draft: str | None = None,
    *,
    revision: str | None = None,
    quantize: int | None = None,
    draft_quantize: int | None = None,
    draft_window: int | None = None,
    adapter_path: str | None = None,
    trust_remote_code: bool = False,
    kernels: str = "auto",
    notice: Callable[[str], None] = quiet,
) -> tuple[Pair, TokenizerWrapper]:
    """Load a target, the drafter that fits it, and the tokenizer.

    Args:
        model: Alias, Hub id or folder of the target.
        draft: Alias, Hub id or folder of the drafter. None finds the published one
            for the target's numbers; "none" loads no drafter.
        revision: Branch, tag or commit of the target's repository.
        quantize, draft_quantize: Bits (4 or 8) to quantize to after loading.
        draft_window: Committed rows that the drafter may see; None is what it was
            made for, 0 is all.
        adapter_path: mlx-lm LoRA adapters for the target.
        trust_remote_code: Allow code that comes with a model or tokenizer.
        kernels: "auto" uses Metal kernels where they are faster here, "off" none of
            them; "exact" makes rows independent of their block, so that drafting
            gives the bits of plain decoding. Kernels have no gradients.
        notice: Told, in one line, what a user should know of kernels and measurements.

    Returns:
        The pair and mlx-lm's tokenizer. Where no drafter can be used the pair decodes
        plainly, and `pair.reason` says why.

    Raises:
        DFlashError: Something is missing, broken or does not fit. A drafter that was
            named is never dropped in silence.
    """
    check_options(quantize, draft_quantize, draft_window, kernels)
    folder = folder_of_target(model, revision)
    config = read_config(folder)
    draft_folder, reason = _checked_drafter(config, model, folder, draft)
    check_memory(folder, draft_folder)
    target, config = load_target(folder, config, quantize, trust_remote_code)
    if adapter_path:
        target = adapted(target, adapter_path)
    tokenizer = read_tokenizer(folder, config, trust_remote_code)
    pair = Pair.of(target, None, config, reason)
    if draft_folder:
        options = {"quantize": draft_quantize, "window": draft_window}
        pair = _with_drafter(pair, draft_folder, options, required=bool(draft))
    if pair.drafter is not None and not device.native_bfloat16():
        choose_draft_dtype(pair, tokenizer)
    pair = install_kernels(pair, kernels, notice)
    calibrate(pair, notice)
    return pair, tokenizer


def _checked_drafter(config, model, folder, draft) -> tuple[Path | None, str]:
    """The folder of a drafter that fits the target's config, or why there is none."""
    draft_folder, reason = find_drafter(config, model, folder, draft)
    if draft_folder:
        try:
            check_pair(config, read_draft_config(draft_folder))
        except (ConfigError, PairError) as error:
            if draft:
                raise
            return None, f"its drafter does not run: {error.message}"
    return draft_folder, reason


def _with_drafter(pair, folder, options, required) -> Pair:
    """The pair with a drafter; without one if it does not run and is not required."""
    try:
        return Pair.of(pair.model, load_drafter(folder, **options), pair.target.config)
    except (UnsupportedError, WeightsError) as error:
        if required:
            raise
        return replace(pair, reason=error.message)


def check_options(
    quantize: int | None = None,
    draft_quantize: int | None = None,
    draft_window: int | None = None,
    kernels: str = "auto",
) -> None:
    """Raise OptionError for values that no model can be loaded with: before a download.

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
        quantize: Bits (4 or 8) for its linear layers; None keeps them.
        window: Committed rows that it may see; None is what it was made for, 0 is all.
        revision: Branch, tag or commit.

    Raises:
        DFlashError: It is missing, partial, or of a kind that is not known.
    """
    drafter = load_folder(folder_of_drafter(str(folder_or_id), revision), window)
    if quantize and drafter.bits:
        raise OptionError(
            f"The drafter {folder_or_id} is quantized already.",
            "Leave draft_quantize out.",
        )
    if quantize:
        quantize_linear(drafter, quantize)
    return drafter


def quantize_linear(model: nn.Module, bits: int) -> None:
    """Quantize linear layers in place, in groups of 64, or 32 where 64 do not fit."""

    def predicate(path, module):
        if not isinstance(module, nn.Linear):
            return False
        columns = module.weight.shape[1]
        size = next((size for size in GROUP_SIZES if columns % size == 0), None)
        return {"group_size": size, "bits": bits} if size else False

    nn.quantize(model, bits=bits, class_predicate=predicate)
    mx.eval(model.parameters())


def check_pair(config: dict[str, Any], drafter: DFlashConfig) -> None:
    """Raise PairError unless drafter and target fit, by their configs alone."""
    target = registry.numbers_of(config)
    check_fit(
        {
            "hidden_size": drafter.target_hidden_size or drafter.hidden_size,
            "num_layers": drafter.num_target_layers or target["num_layers"],
            "vocab_size": drafter.vocab_size,
            "mask_token_id": drafter.mask_token_id,
        },
        target,
    )
    check_taps(drafter.target_layer_ids, target["num_layers"])


def check_memory(folder: Path, draft_folder: Path | None) -> None:
    """Raise NotEnoughMemoryError when weights will not fit, before they are read.

    Quantizing at load reads the weights as they are, so the files' sizes count.
    """
    sizes = {"the target": download.weight_bytes(folder)}
    if draft_folder:
        sizes["the drafter"] = download.weight_bytes(draft_folder)
    check_sizes(sizes)


def check_sizes(sizes: dict[str, int]) -> None:
    """Raise NotEnoughMemoryError when so many bytes of weights will not fit.

    Args:
        sizes: Bytes by what needs them.
    """
    have = device.memory_bytes()
    if sum(sizes.values()) > have:
        parts = [
            f"{size / device.GIB:.1f} GiB for {who}" for who, size in sizes.items()
        ]
        raise NotEnoughMemoryError(
            f"The weights need {' and '.join(parts)}, but this machine has "
            f"{have / device.GIB:.1f} GiB for them.",
            "Choose a smaller model or a lower quantization.",
        )


def load_target(
    folder: Path, config: dict[str, Any], bits: int | None, trust_remote_code: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Load an mlx-lm model; its errors become ours."""
    try:
        model, config = load_model(folder, trust_remote_code=trust_remote_code)
    except FileNotFoundError as error:
        raise MissingFilesError(f"{folder}: {error}.", "Download it again.") from None
    except ValueError as error:
        first, *names = str(error).splitlines()
        detail = f" {brief([n.strip(' ,.') for n in names])}" if names else ""
        raise WeightsError(f"{folder}: {first.rstrip('.:')}{detail}.") from None
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} has a file that cannot be read: {error}.", "Download it again."
        ) from None
    except TypeError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}.") from None
    if bits:
        if config.get("quantization"):
            raise OptionError(
                f"{folder} is quantized already.", "Leave --quantize out."
            )
        # mlx-lm prints a line on stdout, which is the answer's.
        with contextlib.redirect_stdout(sys.stderr):
            model, config = quantize_model(model, config, group_size=64, bits=bits)
        mx.eval(model.parameters())
    return model, config


def read_tokenizer(
    folder: Path, config: dict[str, Any], trust_remote_code: bool
) -> TokenizerWrapper:
    """mlx-lm's tokenizer of a model's folder.

    Raises:
        MissingFilesError: The folder has none.
        ConfigError: It cannot be read; the tokenizer library's own words are kept.
    """
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    if not any((folder / n).is_file() for n in names) and not any(
        folder.glob("*.tiktoken")
    ):
        raise MissingFilesError(f"{folder} has no tokenizer.", "Download it again.")
    try:
        return load_tokenizer(
            folder,
            {"trust_remote_code": trust_remote_code},
            eos_token_ids=config.get("eos_token_id"),
        )
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ConfigError(
            f"The tokenizer in {folder} cannot be read: {error}."
        ) from error


def adapted(model: nn.Module, adapter_path: str) -> nn.Module:
    """The model with LoRA adapters in place."""
    if not (Path(adapter_path) / "adapter_config.json").is_file():
        raise MissingFilesError(
            f"{adapter_path} has no adapter_config.json.",
            "Point --adapter-path to a folder that mlx_lm.lora wrote.",
        )
    try:
        model = load_adapters(model, adapter_path)
    except (ValueError, KeyError, AttributeError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"The adapters in {adapter_path} do not load: {error!r}."
        ) from error
    model.eval()
    return model
